"""Spectral normalisation of convolutions by their true operator norm, not that of the reshaped kernel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from torchstone.errors import SettingError

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_SIZE = "Pass the size of the layer's inputs."


def circular_singular_values(kernel: Tensor, size: Sequence[int]) -> Float[Tensor, "frequencies k"]:
    """All singular values of a circular convolution of stride 1 on inputs of a size.

    The Fourier transform makes it block diagonal: one (out, in) matrix a frequency, whose singular values these are.

    Cost: one FFT of the kernel and prod(size) small singular value decompositions.

    Args:
        kernel: (out, in, k...), one group.
        size: Spatial size of the inputs, at least the kernel's.

    Returns:
        (frequencies, min(out, in)) in no particular order, differentiable.

    Raises:
        SettingError: A size that does not fit the kernel.

    Source: Sedghi, Gupta & Long 2019, ICLR, theorem 6.
    """
    if kernel.ndim < 3:
        raise SettingError(
            "A convolution's kernel is (out, in, k...)",
            f"shape {tuple(kernel.shape)}",
            "Use svdvals for matrices.",
        )
    size = _whole(size, tuple(kernel.shape[2:]))
    if any(n < k for n, k in zip(size, kernel.shape[2:], strict=True)):
        raise SettingError(
            "size must not be smaller than the kernel's",
            f"size {size} for a kernel {tuple(kernel.shape)}",
            _SIZE,
        )
    transfer = torch.fft.fftn(kernel, s=size, dim=tuple(range(2, kernel.ndim)))
    return torch.linalg.svdvals(transfer.flatten(2).permute(2, 0, 1))


def reshaped_norm(kernel: Tensor) -> Tensor:
    """Largest singular value of the kernel as a matrix (out, in k...), what `torch.nn.utils.parametrizations` divides by.

    It is not the convolution's operator norm, which lies between this / sqrt(prod(k)) and this times sqrt(prod(k)).
    """
    return torch.linalg.matrix_norm(kernel.flatten(1), 2)


class ExactSpectralNorm(nn.Module):
    """Parametrisation: the kernel divided by its circular convolution's operator norm, then times a coefficient.

    Args:
        size: Spatial size of the layer's inputs; for zero padding pass size + padding, which gives an upper bound.
        coefficient: Operator norm to have.
        bound: Divide only where the norm exceeds the coefficient, so that it is a limit and not a value.
    """

    def __init__(self, size: Sequence[int], coefficient: float = 1.0, bound: bool = False) -> None:
        super().__init__()
        self.size, self.coefficient, self.bound = tuple(size), coefficient, bound

    def forward(self, weight: Tensor) -> Tensor:
        """The normalised kernel."""
        wide = weight.float() if weight.dtype in (torch.float16, torch.bfloat16) else weight
        norm = circular_singular_values(wide, self.size).max()
        # A kernel of zeros stays one.
        factor = self.coefficient / norm.clamp(min=torch.finfo(norm.dtype).tiny)
        return weight * (factor.clamp(max=1.0) if self.bound else factor).to(weight.dtype)


def exact_spectral_norm(
    layer: nn.Module, size: Sequence[int], *, coefficient: float = 1.0, bound: bool = False
) -> nn.Module:
    """Divide a convolution's kernel by its true operator norm at every forward pass.

    Exact for circular padding by k - 1 cells in all, which keeps the size; for zero padding of p cells on each side the norm
    is that of the circular convolution on size + 2p, of which the layer is a part, so the layer's own norm is at most the
    coefficient. Less padding and a stride only leave outputs out and keep that.

    Cost: an FFT and prod(size) small decompositions a pass. PyTorch's power iteration on the reshaped kernel is cheaper and
    bounds another number (`reshaped_norm`).

    Args:
        layer: A convolution of one group, dilation 1, with zero or circular padding; changed in place. Circular padding by
            more than k - 1 cells repeats outputs, and is refused.
        size: Spatial size of its inputs.
        coefficient: Operator norm to have.
        bound: Whether the coefficient is only a limit.

    Returns:
        The layer.

    Raises:
        SettingError: Another kind of layer or padding, or a coefficient that is not positive.

    Source: Miyato et al. 2018; Sedghi, Gupta & Long 2019.
    """
    if not isinstance(layer, _CONVOLUTIONS):
        raise SettingError(
            "exact_spectral_norm takes a convolution",
            type(layer).__name__,
            "Use torch.nn.utils.parametrizations.spectral_norm for matrices: there it is exact.",
        )
    if (
        layer.groups != 1
        or any(d != 1 for d in layer.dilation)
        or layer.padding_mode not in ("zeros", "circular")
    ):
        raise SettingError(
            "exact_spectral_norm takes one group, dilation 1, zero or circular padding",
            f"groups={layer.groups}, dilation={layer.dilation}, padding_mode={layer.padding_mode!r}",
            "Use torch.nn.utils.parametrizations.spectral_norm for this layer.",
        )
    if not 0 < coefficient < float("inf"):
        raise SettingError("coefficient must be positive", repr(coefficient), "1.0 makes it non-expansive.")
    padding, grid = _padding(layer), _whole(size, layer.kernel_size)
    if layer.padding_mode == "zeros":
        grid = tuple(n + p for n, p in zip(grid, padding, strict=True))
    elif any(p > k - 1 for p, k in zip(padding, layer.kernel_size, strict=True)):
        raise SettingError(
            "Circular padding may be k - 1 cells in all; more of them repeat outputs",
            f"padding={layer.padding} for a kernel {layer.kernel_size}",
            'padding="same" keeps the size.',
        )
    if any(n < k for n, k in zip(grid, layer.kernel_size, strict=True)):
        raise SettingError(
            "size must not be smaller than the kernel's",
            f"size {tuple(size)} for a kernel {layer.kernel_size}",
            _SIZE,
        )
    parametrize.register_parametrization(layer, "weight", ExactSpectralNorm(grid, coefficient, bound))
    return layer


def _padding(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> tuple[int, ...]:
    """Cells added in all, one number a dimension."""
    if layer.padding == "same":
        return tuple(k - 1 for k in layer.kernel_size)
    if layer.padding == "valid":
        return (0,) * len(layer.kernel_size)
    return tuple(2 * int(p) for p in layer.padding)


def _whole(size: Sequence[int], kernel: tuple[int, ...]) -> tuple[int, ...]:
    """The size as whole numbers, one a dimension of the kernel."""
    if (
        not isinstance(size, Sequence)
        or len(size) != len(kernel)
        or not all(isinstance(n, int) and n > 0 for n in size)
    ):
        raise SettingError(
            "size needs one whole number a dimension", f"{size!r} for a kernel {kernel}", _SIZE
        )
    return tuple(size)
