"""Smoothing of quadrature nodes into a spectral density, and their cumulative distribution."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

_POINTS = 512
_REACH = 4.0  # kernel widths that a grid goes beyond the last node


@dataclass(frozen=True)
class SpectralCurve:
    """A density or a distribution of eigenvalues on a grid, with a pointwise band for the error of the probes.

    Attributes:
        grid: Eigenvalues (g,), ascending.
        values: Density, a unit of mass spread over all eigenvalues; or the share of eigenvalues up to each grid point.
        low: Lower limits of the band (g,).
        high: Upper limits (g,).
        width: Standard deviation of the smoothing kernel; 0 for a distribution, which is not smoothed.
        confidence: Coverage the band aims at, at each point of the grid.
    """

    grid: Float[Tensor, " g"]
    values: Float[Tensor, " g"]
    low: Float[Tensor, " g"]
    high: Float[Tensor, " g"]
    width: float
    confidence: float


def default_width(nodes: Float[Tensor, "p k"], steps: int) -> float:
    """Range of the nodes over the number of steps: the finest kernel that Gauss rules of so many nodes resolve.

    A rule of k nodes is exact up to degree 2k - 1. A Gaussian of width 2 / k on [-1, 1] has Chebyshev coefficients
    that fall like exp(-(2 j / k)^2 / 2), to 3e-4 at j = 2k. Where all nodes are one it is 1/1000 of it, or 1.
    """
    low, high = float(nodes.min()), float(nodes.max())
    size = max(abs(low), abs(high))
    return (high - low) / steps if high - low > 1e-12 * size else 1e-3 * size or 1.0


def default_grid(
    nodes: Float[Tensor, "p k"], known: Float[Tensor, " d"], width: float
) -> Float[Tensor, " g"]:
    """512 even points over the nodes and 4 widths beyond, and 17 about each known eigenvalue outside of that."""
    low, high = float(nodes.min()) - _REACH * width, float(nodes.max()) + _REACH * width
    around = torch.linspace(-_REACH * width, _REACH * width, 17, dtype=torch.float64)
    outside = known[(known < low) | (known > high)]
    pieces = [torch.linspace(low, high, _POINTS, dtype=torch.float64), *(value + around for value in outside)]
    return torch.cat(pieces).sort().values


def smoothed(
    nodes: Float[Tensor, " k"], weights: Float[Tensor, " k"], grid: Float[Tensor, " g"], width: float
) -> Float[Tensor, " g"]:
    """sum_j weights_j N(grid; nodes_j, width^2)."""
    scaled = (grid[:, None] - nodes) / width
    return (-scaled.square() / 2).exp() @ weights / (width * math.sqrt(2 * math.pi))


def cumulative(
    nodes: Float[Tensor, " k"], weights: Float[Tensor, " k"], grid: Float[Tensor, " g"], shift: int = 0
) -> Float[Tensor, " g"]:
    """Total weight of the nodes up to each grid point, that point included, and of `shift` nodes more.

    With shifts of -1 and 1 the limits between which the distribution behind a Gauss rule lies: at the m-th node it is
    at least the weight of the nodes before and at most the weight up to it, and in between it only grows.

    Source: Chebyshev, Markov, Stieltjes: Akhiezer 1965, The Classical Moment Problem, section 2.5.
    """
    total = torch.cat([weights.new_zeros(1), weights.cumsum(dim=0)])
    count = torch.searchsorted(nodes, grid, right=True)
    return total[(count + shift).clamp(0, len(nodes))]
