"""A convolution as the linear map that spectral bounds see, without ever forming its matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from torchstone.bounds.dense import check_layer, difference
from torchstone.bounds.transfer import transfer_norm
from torchstone.errors import SettingError


@dataclass(frozen=True)
class ConvolutionLayer:
    """A 1-, 2- or 3-dimensional convolution on inputs of a given size: its norms depend on that size.

    Args:
        weight: Kernel (out channels, in channels / groups, k...), PyTorch's `Conv*d.weight`.
        input_size: Spatial size of its inputs, one number a dimension.
        bias: (out channels,) or None.
        stride: One number a dimension.
        padding: Cells added (before, after), one pair a dimension.
        dilation: One number a dimension.
        groups: Number of groups.
        circular: Whether the padding wraps around; else it is zeros.

    Raises:
        SettingError: Shapes that do not match, or circular padding that does not keep size / stride.
        NumericalError: NaN or infinite weights.
    """

    weight: Tensor
    input_size: tuple[int, ...]
    bias: Tensor | None = None
    stride: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    circular: bool = False

    def __post_init__(self) -> None:
        dims = self.weight.ndim - 2
        defaults = {"stride": (1,) * dims, "padding": ((0, 0),) * dims, "dilation": (1,) * dims}
        for name, default in defaults.items():
            object.__setattr__(self, name, tuple(getattr(self, name)) or default)
        lengths = {len(t) for t in (self.input_size, self.stride, self.padding, self.dilation)}
        if dims not in (1, 2, 3) or lengths != {dims} or self.weight.shape[0] % self.groups:
            raise SettingError(
                "ConvolutionLayer needs a kernel (out, in, k...) and one size, stride, padding and dilation a dimension",
                f"kernel {tuple(self.weight.shape)}, input size {self.input_size}",
                "Use ConvolutionLayer.of(module, input_size).",
            )
        check_layer(self.weight, self.bias)
        if min(self.output_size) < 1:
            raise SettingError(
                "The kernel must fit into the padded input",
                f"input size {self.input_size}",
                "Pass the size it gets.",
            )
        if self.circular:
            self._check_circular()

    def _check_circular(self) -> None:
        extents = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.weight.shape[2:], strict=True)]
        kept = all(
            n == s * m and e <= n
            for n, s, m, e in zip(self.input_size, self.stride, self.output_size, extents, strict=True)
        )
        if not kept:
            raise SettingError(
                "A circular convolution must map size n to n / stride, with a kernel of at most n cells",
                f"input size {self.input_size}, output size {self.output_size}, stride {self.stride}",
                "Pad by dilation * (kernel - 1) in all, or use zero padding.",
            )

    @classmethod
    def of(cls, module: nn.Conv1d | nn.Conv2d | nn.Conv3d, input_size: tuple[int, ...]) -> ConvolutionLayer:
        """The layer that a PyTorch convolution is on inputs of spatial size `input_size`.

        Args:
            module: A convolution with zero or circular padding.
            input_size: Spatial size of its inputs.

        Returns:
            The layer; it shares the module's tensors.

        Raises:
            SettingError: Reflected or replicated padding.
        """
        if module.padding_mode not in ("zeros", "circular"):
            raise SettingError(
                "Norms of convolutions are known for zero and circular padding",
                f'padding_mode="{module.padding_mode}"',
                'Leave this layer out, or train with padding_mode="zeros".',
            )
        if module.padding == "same":
            total = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
            padding = tuple((t // 2, t - t // 2) for t in total)
        elif module.padding == "valid":
            padding = ()
        else:
            padding = tuple((int(p), int(p)) for p in module.padding)
        return cls(
            module.weight,
            tuple(input_size),
            module.bias,
            tuple(module.stride),
            padding,
            tuple(module.dilation),
            module.groups,
            module.padding_mode == "circular",
        )

    @property
    def output_size(self) -> tuple[int, ...]:
        """Spatial size of the outputs."""
        return tuple(
            (n + sum(p) - d * (k - 1) - 1) // s + 1
            for n, p, d, k, s in zip(
                self.input_size, self.padding, self.dilation, self.weight.shape[2:], self.stride, strict=True
            )
        )

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Channels and size of an input."""
        return (self.weight.shape[1] * self.groups, *self.input_size)

    @property
    def dimensions(self) -> tuple[int, int]:
        """Number of outputs and inputs of the unrolled matrix."""
        return self.weight.shape[0] * math.prod(self.output_size), math.prod(self.input_shape)

    def identity(self) -> ConvolutionLayer:
        """The kernel that copies channel i to channel i at the central cell, with no bias.

        The identity map for an odd kernel that keeps the size; elsewhere its shifted or cut version.
        """
        kernel = torch.zeros(self.weight.shape, dtype=torch.float64, device=self.weight.device)
        centre = tuple(k // 2 for k in self.weight.shape[2:])
        per_group_out, per_group_in = self.weight.shape[0] // self.groups, self.weight.shape[1]
        for channel in range(self.weight.shape[0]):
            inside = channel % per_group_out
            if inside < per_group_in:
                kernel[(channel, inside, *centre)] = 1.0
        return replace(self, weight=kernel, bias=None)

    def linear(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """The linear part applied to inputs (N, channels, size...) in float64, with another kernel if given."""
        kernel = (self.weight.detach() if weight is None else weight).double()
        # functional.pad counts from the last dimension.
        around = [cells for pair in reversed(self.padding) for cells in pair]
        x = functional.pad(x, around, mode="circular" if self.circular else "constant")
        convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[len(self.input_size) - 1]
        return convolve(x, kernel, None, self.stride, 0, self.dilation, self.groups)

    def norm_bound(self) -> float:
        r"""Upper bound of :math:`\|A\|_{op}`: exact for circular padding, else never below it.

        Circular padding: the largest singular value of the transfer matrix over all frequencies (Sedghi, Gupta &
        Long 2019, theorem 6). Zero padding: A is a block of the circular convolution on the padded grid, so that one's norm
        bounds it; on large grids the supremum over *all* frequencies is bounded from a coarser grid (see `transfer_norm`).
        For random 3 x 3 kernels it is some 5% too large on 8 x 8 cells and 2% on 28 x 28.
        """
        return transfer_norm(
            self.weight.detach().double(), self.input_size, self.stride, self.padding, self.dilation,
            self.groups, self.circular,
        )  # fmt: skip

    def bias_norm(self) -> float:
        """2-norm of the bias spread over all output positions."""
        if self.bias is None:
            return 0.0
        return float(self.bias.detach().double().norm()) * math.sqrt(math.prod(self.output_size))

    def two_one_norm(self, reference: ConvolutionLayer | None = None) -> float:
        r""":math:`\|(A - M)^\top\|_{2,1}` of the unrolled matrices: the sum over output cells of the norm of their taps.

        The taps that fall into zero padding do not count; a convolution of ones with the squared kernel counts the
        others. A bias is one more tap.

        Args:
            reference: M, with a kernel of the same shape; None for zero.

        Returns:
            The norm in float64.

        Raises:
            SettingError: A reference of another shape.
        """
        weight, bias = difference(self, reference)
        ones = torch.ones(1, *self.input_shape, dtype=torch.float64, device=weight.device)
        squares = self.linear(ones, weight.square())
        if bias is not None:
            squares = squares + bias.square().view(1, -1, *[1] * len(self.input_size))
        return float(squares.clamp(min=0).sqrt().sum())


@dataclass(frozen=True)
class NormBracket:
    """An operator norm between two certified ends.

    Args:
        low: A Rayleigh quotient: some input is stretched by this much.
        high: An upper bound.
        residual: Distance from `low` within which some singular value lies; small once the iteration has converged.
        method: How the ends were made.
    """

    low: float
    high: float
    residual: float
    method: str


def convolution_norm(
    layer: ConvolutionLayer, generator: torch.Generator, steps: int = 60, tolerance: float = 1e-8
) -> NormBracket:
    r"""The operator norm of a convolution from below and above.

    The upper end is `layer.norm_bound()`. The lower end is the largest Rayleigh quotient
    :math:`\|A x\| / \|x\|` found by locally optimal conjugate gradients on :math:`A^\top A`, started at random; the
    adjoint is the exact one of padding, stride and dilation. Bounds should use `high`: `low` may converge from below.

    Cost: 4 convolutions and 4 adjoints of one input a step; memory of a dozen inputs and outputs.

    Args:
        layer: The convolution.
        generator: Source of the starting vector, on the CPU.
        steps: Largest number of steps.
        tolerance: Relative residual at which to stop.

    Returns:
        The bracket; both ends are equal for circular padding.

    Source: Knyazev 2001 (the iteration); Sedghi, Gupta & Long 2019 (the upper end).
    """
    high = layer.norm_bound()
    if layer.circular:
        return NormBracket(high, high, 0.0, "transfer matrix, exact")
    x = torch.randn(1, *layer.input_shape, generator=generator, dtype=torch.float64).to(layer.weight.device)
    basis, value, residual = (x / x.norm()).flatten(1), 0.0, math.inf
    for _ in range(steps):
        image = layer.linear(basis.view(-1, *layer.input_shape)).flatten(1)
        _, turns = torch.linalg.eigh(image @ image.T)
        x, old = turns[:, -1] @ basis, basis[0]
        image = layer.linear(x.view(1, *layer.input_shape))
        value = float(image.norm())
        gradient = _adjoint(layer, image).flatten() - value**2 * x
        residual = float(gradient.norm()) / max(value, 1e-300)
        if residual <= tolerance * value or value == 0:
            break
        # Next search space: the iterate, the gradient and the last change, made orthonormal.
        basis = torch.linalg.qr(torch.stack([x, gradient / gradient.norm(), old], dim=1))[0].T.contiguous()
    return NormBracket(min(value, high), high, residual, "conjugate gradients below, transfer matrix above")


def _adjoint(layer: ConvolutionLayer, image: Tensor) -> Tensor:
    zeros = torch.zeros(1, *layer.input_shape, dtype=torch.float64, device=image.device)
    pull = torch.func.vjp(layer.linear, zeros)[1]
    return pull(image)[0]
