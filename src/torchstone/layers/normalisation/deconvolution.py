"""Network deconvolution: a layer's inputs are whitened before its weights see them."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from torchstone.errors import SettingError


def inverse_root(
    covariance: Float[Tensor, "n n"], iterations: int = 5, eps: float = 1e-5
) -> Float[Tensor, "n n"]:
    """(C + eps I)^(-1/2) by the coupled Newton-Schulz iteration: matrix products only, differentiable.

    Y_0 = C / |C|_F, Z_0 = I;  Y <- Y (3 I - Z Y) / 2, Z <- (3 I - Z Y) Z / 2;  Z -> C^(-1/2) |C|_F^(1/2).
    Converges quadratically once eigenvalues of Y near 1; small ones double (a factor 3/2 in the root) an iteration.

    Args:
        covariance: Symmetric, positive semi-definite.
        iterations: 5 roughly whitens, 15 and more are accurate for condition numbers up to 1e4.
        eps: Added to the diagonal.

    Source: Higham 2008, Functions of Matrices, section 6.7; Ye et al. 2020, ICLR, algorithm 1.
    """
    eye = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    matrix = covariance + eps * eye
    norm = matrix.norm()
    y, z = matrix / norm, eye
    for _ in range(iterations):
        step = (3 * eye - z @ y) / 2
        y, z = y @ step, step @ z
    return z / norm.sqrt()


class Deconv2d(nn.Conv2d):
    """A convolution whose input patches are whitened: y = W D (patches - mean) + b with D = Cov^(-1/2).

    Removes the correlations between neighbouring pixels and between channels, which plain normalisation leaves. The
    whitening is folded into the kernel, so that evaluation costs a convolution. Channels are whitened in blocks.

    Args:
        block: Most channels whitened together; those of the input are split into equal blocks of at most this.
        iterations: Newton-Schulz iterations.
        eps: Added to the covariance's diagonal.
        momentum: Weight of the newest batch in the running mean and whitening.
        sampling: Every sampling-th patch in each direction enters the covariance, in training.
        arguments: As for `torch.nn.Conv2d`, without groups.
        options: Likewise.

    Raises:
        SettingError: Groups, which would need a whitening each, or a setting out of range; in the forward pass, another shape
            than (N, C, H, W).

    Source: Ye et al. 2020, "Network Deconvolution", ICLR, section 3.
    """

    running_mean: Tensor
    running_whitening: Tensor

    def __init__(
        self,
        *arguments: Any,
        block: int = 64,
        iterations: int = 5,
        eps: float = 1e-5,
        momentum: float = 0.1,
        sampling: int = 3,
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        if self.groups != 1:
            raise SettingError("Deconv2d has one group", f"{self.groups}", "Use block= to whiten in blocks.")
        for name, value in (("block", block), ("iterations", iterations), ("sampling", sampling)):
            if not isinstance(value, int) or value < 1:
                raise SettingError(f"{name} must be a whole number of at least 1", repr(value), "Raise it.")
        if not 0 < momentum <= 1 or not eps >= 0:
            raise SettingError(
                "Deconv2d needs 0 < momentum <= 1 and eps >= 0",
                f"momentum={momentum}, eps={eps}",
                "Correct the setting.",
            )
        self.blocks = next(
            count
            for count in range(-(-self.in_channels // block), self.in_channels + 1)
            if self.in_channels % count == 0
        )
        self.iterations, self.eps, self.momentum, self.sampling = iterations, eps, momentum, sampling
        self.patch = self.in_channels // self.blocks * self.kernel_size[0] * self.kernel_size[1]
        self.register_buffer("running_mean", torch.zeros(self.blocks, self.patch))
        self.register_buffer("running_whitening", torch.eye(self.patch).repeat(self.blocks, 1, 1))

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - PyTorch's name
        """Convolve whitened patches of (N, C, H, W)."""
        if input.ndim != 4 or input.shape[1] != self.in_channels:
            raise SettingError(
                f"Deconv2d takes (N, {self.in_channels}, H, W)", f"shape {tuple(input.shape)}", "Reshape it."
            )
        if self.training and input.numel():
            mean, whitening = self._statistics(input)
            with torch.no_grad():
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
                self.running_whitening.lerp_(whitening.to(self.running_whitening.dtype), self.momentum)
        else:
            mean, whitening = self.running_mean, self.running_whitening
        mean, whitening = mean.to(self.weight.dtype), whitening.to(self.weight.dtype)
        with torch.autocast(input.device.type, enabled=False):
            weight = self.weight.reshape(self.out_channels, self.blocks, self.patch)
            kernel = torch.einsum("obp,bpq->obq", weight, whitening)
            shift = -torch.einsum("obp,bp->o", kernel, mean)
        if self.bias is not None:
            shift = shift + self.bias
        return self._conv_forward(input, kernel.reshape(self.weight.shape), shift)

    def whitened(self, images: Tensor) -> Float[Tensor, "blocks patches n"]:
        """The whitened patches themselves, for looking at: their covariance is close to the identity."""
        mean, whitening = self._statistics(images, sampling=1)
        return (self._patches(images, 1) - mean[:, None]) @ whitening

    def _statistics(self, images: Tensor, sampling: int | None = None) -> tuple[Tensor, Tensor]:
        # In float32 at least, whatever autocast would make of the products: roots need the digits.
        wide = images.float() if images.dtype in (torch.float16, torch.bfloat16) else images
        with torch.autocast(images.device.type, enabled=False):
            patches = self._patches(wide, self.sampling if sampling is None else sampling)
            mean = patches.mean(1)
            centred = patches - mean[:, None]
            covariance = centred.mT @ centred / patches.shape[1]
            roots = [inverse_root(one, self.iterations, self.eps) for one in covariance]
        return mean, torch.stack(roots)

    def _patches(self, images: Tensor, sampling: int) -> Float[Tensor, "blocks patches n"]:
        """Rows of images patches, block by block of channels, of images padded as the convolution pads them."""
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        padded = functional.pad(images, self._reversed_padding_repeated_twice, mode)
        stride = (self.stride[0] * sampling, self.stride[1] * sampling)
        columns = functional.unfold(padded, self.kernel_size, self.dilation, 0, stride)
        return columns.unflatten(1, (self.blocks, self.patch)).permute(1, 0, 3, 2).flatten(1, 2)
