"""XDiag: a stochastic diagonal in which every random vector serves both the low-rank part and the rest."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.linalg.as_linear_map import as_linear_map
from torchstone.linalg.diagonal import DiagonalEstimate
from torchstone.linalg.linear_map import LinearMap, require_square
from torchstone.linalg.range_sketch import RangeSketch, pair_directions
from torchstone.linalg.sampling import require_at_least


def xdiag(A: LinearMap | Any, *, products: int, generator: torch.Generator) -> DiagonalEstimate:
    r"""Diagonal from m = products / 2 vectors of random signs, each the test vector of the sketch that the others make.

    With Q_i = orth(A w_j, j != i) and P_i = Q_i Q_i^T, the mean over i of

        d_i = diag(P_i A) + w_i * (I - P_i) A w_i    (entry by entry).

    Unbiased for every square A. Where singular values decay the error is far below that of `hutchinson_diagonal` with the
    same products; where they do not, it is that with half of them. The d_i are correlated; the standard errors count
    that as in `xtrace`.

    Cost: m products with A and m with A^T, n with A where that is no more (then exact), O(n m^2) flops; memory 8 n m.

    Args:
        A: A square map that is symmetric or knows its transpose, or what `as_linear_map` takes.
        products: At most this many, at least 2; an odd one is left over.
        generator: Draws the signs.

    Raises:
        SettingError: Not square, products < 2, or neither symmetric nor with a transpose.
        NumericalError: Products with NaN or Inf.

    >>> low_rank = torch.ones(50, 50, dtype=torch.float64)
    >>> float(xdiag(low_rank, products=8, generator=torch.Generator().manual_seed(0)).values.std()) < 1e-12
    True

    Source: Epperly, Tropp & Webber 2024, SIAM J. Matrix Anal. Appl. 45(1), section 2.4.
    """
    A = as_linear_map(A)
    require_square(A, "xdiag")
    require_at_least("products", products, 2)
    if products >= A.shape[0]:
        return _exact_diagonal(A)
    transpose = A.T
    sketch = RangeSketch(A, "rademacher", generator)
    basis = sketch.extend(products // 2)
    images = transpose.matmat(basis).detach()
    return _leave_one_out(sketch, images)


def _exact_diagonal(A: LinearMap, block: int = 64) -> DiagonalEstimate:
    n = A.shape[0]
    values = torch.empty(n, dtype=torch.float64, device=A.device)
    for start in range(0, n, block):
        X = torch.zeros(n, min(block, n - start), dtype=A.dtype, device=A.device)
        X[start : start + X.shape[1]].fill_diagonal_(1)
        values[start : start + X.shape[1]] = A.matmat(X).detach()[start:].diagonal().double()
    return DiagonalEstimate(values, torch.zeros_like(values), 0, n)


def _leave_one_out(sketch: RangeSketch, images: Float[Tensor, "n r"]) -> DiagonalEstimate:
    m = sketch.size
    S = sketch.left_out()
    basis, images = sketch.basis.double(), images.double()
    signs = sketch.vectors.double()
    left, right = basis @ S, images @ S  # Q s_i and A^T Q s_i
    heights = (S * sketch.triangle).sum(dim=0)  # s_i^T Q^T A w_i
    beyond = sketch.images.double() - basis @ sketch.triangle  # what rounding, or a rank met, keeps out of Q
    samples = (basis * images).sum(dim=1, keepdim=True) - left * right + signs * (left * heights + beyond)
    values = samples.mean(dim=1)
    if m == 1:
        return DiagonalEstimate(values, torch.full_like(values, math.inf), m, m + sketch.rank)
    squared = samples.var(dim=1) / m
    if m > 2 and sketch.rank == m:
        squared = squared + _covariance(S, left, right, heights, signs)
    return DiagonalEstimate(values, squared.sqrt(), m, m + sketch.rank)


def _covariance(
    S: Tensor, left: Tensor, right: Tensor, heights: Tensor, signs: Tensor
) -> Float[Tensor, " n"]:
    """Mean covariance of two samples, entry by entry, from what each changes where the other's vector is left out.

    d_i - d_i^(j) = (Q s) * (A^T Q s - w_i (s^T Q^T A w_i)) with s = s_ji, and s^T Q^T A w_i = -c_ij heights_i / length.
    """
    m = S.shape[1]
    cosines, lengths = pair_directions(S)
    total = torch.zeros_like(left[:, 0])
    for i in range(m - 1):
        later = slice(i + 1, m)
        c, d = cosines[i, later], lengths[i, later]
        mine = (left[:, later] - c * left[:, i : i + 1]) / d  # Q s_ji: j left out besides i
        mine_right = (right[:, later] - c * right[:, i : i + 1]) / d
        theirs = (left[:, i : i + 1] - c * left[:, later]) / d  # Q s_ij
        theirs_right = (right[:, i : i + 1] - c * right[:, later]) / d
        change = mine * (mine_right + signs[:, i : i + 1] * (c * heights[i] / d))
        changed = theirs * (theirs_right + signs[:, later] * (c * heights[later] / d))
        total += (change * changed).sum(dim=1)
    return (2 * total / (m * (m - 1))).abs()
