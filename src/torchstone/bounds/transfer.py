"""Norm of a convolution from its transfer matrices: one small matrix a frequency."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

_BUDGET = 2**27
_OVERSAMPLING = 22


def transfer_norm(
    kernel: Tensor,
    input_size: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
    dilation: tuple[int, ...],
    groups: int,
    circular: bool,
) -> float:
    r"""Largest singular value of :math:`\hat K(\theta) = \sum_t K_t e^{-i \theta \cdot t}` over frequencies.

    For a circular convolution the frequencies are those of its grid, and the value is its norm exactly. For zero padding
    it is an upper bound: the input extended by zeros, the circular convolution on the padded grid and the choice of
    outputs have norms 1, :math:`\max \sigma_1`, 1. A stride s is removed first: the s phases of the input become
    channels of their own, which only permutes coordinates.

    A padded grid longer than M = 22 n cells, with n = (extent - 1)/2 the degree of :math:`\hat K` along that
    dimension, is replaced by M equispaced frequencies and the value divided by :math:`\cos(\pi n / M)` (at most 1%
    more): a trigonometric polynomial of degree n that attains its largest value at :math:`\theta_0` is at least
    :math:`\cos(n(\theta - \theta_0))` of it nearby (M. Riesz), and some frequency is within :math:`\pi / M`.

    Cost: one Hermitian eigenvalue problem of the smaller number of channels a frequency; at most 22 n frequencies a
    dimension for zero padding, whatever the size of the image. Memory: `2**27` bytes and one frequency.

    Args:
        kernel: (out, in / groups, k...), float64.
        input_size: Spatial size.
        stride: One a dimension.
        padding: Cells (before, after), one pair a dimension.
        dilation: One a dimension.
        groups: Number of groups.
        circular: Whether the padding wraps around.

    Returns:
        The norm or its upper bound.

    Source: Sedghi, Gupta & Long 2019, theorem 6; Ehlich & Zeller 1964 for the coarser grid.
    """
    kernel = _unit_stride(_dilated(kernel, dilation), stride)
    grid, inflation = [], 1.0
    for n, s, pad, extent in zip(input_size, stride, padding, kernel.shape[2:], strict=True):
        cells = n // s if circular else -(-(n + sum(pad)) // s)
        degree = (extent - 1) / 2
        coarse = max(1, math.ceil(_OVERSAMPLING * degree))
        if not circular and coarse < cells:
            cells, inflation = coarse, inflation / math.cos(math.pi * degree / coarse)
        grid.append(cells)
    out, inside = kernel.shape[0] // groups, kernel.shape[1]
    taps = kernel.reshape(groups, out, inside, -1).permute(3, 0, 1, 2).flatten(1).to(torch.complex128)
    waves = _waves(grid, kernel.shape[2:]).to(taps.device)
    chunk = max(1, _BUDGET // (16 * 3 * taps.shape[1]))
    largest = 0.0
    for some in waves.split(chunk):
        matrices = (some @ taps).view(-1, out, inside)
        gram = matrices.mH @ matrices if inside <= out else matrices @ matrices.mH
        largest = max(largest, float(torch.linalg.eigvalsh(gram)[:, -1].max()))
    return math.sqrt(largest) * inflation


def _waves(grid: list[int], extents: torch.Size) -> Tensor:
    """Values of all plane waves of the grid at the kernel's cells, (frequencies, cells)."""
    waves = torch.ones(1, 1, dtype=torch.complex128)
    for axis, (cells, extent) in enumerate(zip(grid, extents, strict=True)):
        # A real kernel has conjugate transfer matrices at opposite frequencies, so half of one dimension is enough.
        count = cells // 2 + 1 if axis == len(grid) - 1 else cells
        turns = torch.outer(torch.arange(count), torch.arange(extent)) % cells
        phase = -2 * math.pi * turns.double() / cells
        waves = torch.kron(waves, torch.polar(torch.ones_like(phase), phase))
    return waves


def _dilated(kernel: Tensor, dilation: tuple[int, ...]) -> Tensor:
    """The kernel with the zeros of its dilation written out."""
    extents = [d * (k - 1) + 1 for d, k in zip(dilation, kernel.shape[2:], strict=True)]
    spread = kernel.new_zeros(*kernel.shape[:2], *extents)
    spread[(..., *[slice(None, None, d) for d in dilation])] = kernel
    return spread


def _unit_stride(kernel: Tensor, stride: tuple[int, ...]) -> Tensor:
    """The same convolution at stride 1 on the phases of the input as channels: cell t = s q + r goes to phase r, cell q."""
    for axis, s in enumerate(stride, start=2):
        extent = kernel.shape[axis]
        short = -extent % s
        after = [0, short] if axis == kernel.ndim - 1 else [0, 0] * (kernel.ndim - 1 - axis) + [0, short]
        kernel = functional.pad(kernel, after).unflatten(axis, (-1, s)).movedim(axis + 1, 2).flatten(1, 2)
    return kernel
