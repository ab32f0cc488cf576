"""XTrace: a stochastic trace in which every random vector serves both the low-rank part and the rest."""

from __future__ import annotations

import math
import os
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.linalg.as_linear_map import as_linear_map
from torchstone.linalg.finished_work import FinishedWork
from torchstone.linalg.linear_map import LinearMap, require_square
from torchstone.linalg.range_sketch import RangeSketch, pair_directions
from torchstone.linalg.resumable import resumable
from torchstone.linalg.sampling import require_at_least
from torchstone.linalg.trace import TraceEstimate, sum_of_diagonal


def xtrace(
    A: LinearMap | Any,
    *,
    products: int,
    generator: torch.Generator,
    checkpoint: str | os.PathLike[str] | None = None,
) -> TraceEstimate:
    r"""Trace from m = products / 2 random vectors, each the test vector of the sketch that the others make.

    With Q_i = orth(A w_j, j != i), P_i = Q_i Q_i^T and u_i = (I - P_i) w_i, the mean over i of

        t_i = tr(Q_i^T A Q_i) + (n - m + 1) u_i^T A u_i / ||u_i||^2.

    Unbiased for every square A, in exact arithmetic: for Gaussian w_i the direction of u_i is uniform in the complement
    of Q_i. Where eigenvalues decay the error is far below that of Hutch++ with the same products; where they do not, it is
    that of Hutchinson with half of them. The t_i are correlated, so their spread alone makes the error too small. The
    covariance of t_i and t_j is

        E[(t_i - t_i^(j)) (t_j - t_j^(i))],    t_i^(j): the same without w_j,

    since t_i has the conditional mean tr(A) given the other vectors; the t_i^(j) need no further product, and this makes
    the squared standard error unbiased. From m = 3 on; with fewer vectors it is that of independent samples.

    Cost: 2m products in two blocks, n where that is no more (then exact), O(n m^2) flops; memory 6 n m.

    Args:
        A: A square map, or what `as_linear_map` takes.
        products: At most this many, at least 2; an odd one is left over.
        generator: Draws the vectors.
        checkpoint: A file that keeps the finished products of a long run, ten at a time, as `ResumableMap` does. A run
            with the same arguments and generator goes on from it to the bits of an uninterrupted one; it is deleted at
            the end.

    Returns:
        The estimate; its samples are the t_i.

    Raises:
        SettingError: Not square, products < 2, or a checkpoint of another run.
        FormatError: A damaged checkpoint.
        OutputError: A checkpoint that cannot be written.
        NumericalError: Products with NaN or Inf.

    >>> low_rank = torch.ones(50, 50, dtype=torch.float64)
    >>> round(xtrace(low_rank, products=8, generator=torch.Generator().manual_seed(0)).value, 9)
    50.0

    Source: Epperly, Tropp & Webber 2024, SIAM J. Matrix Anal. Appl. 45(1), section 2.1, the scaling in section 2.3.
    """
    A = as_linear_map(A)
    require_square(A, "xtrace")
    require_at_least("products", products, 2)
    with FinishedWork.of(checkpoint, "xtrace", A, generator, products=products) as finished:
        if products >= A.shape[0]:
            block = 64 if checkpoint is None else 10
            return TraceEstimate.exactly(sum_of_diagonal(A, block, finished), A.shape[0])
        kept = resumable(A, finished)
        sketch = RangeSketch(kept, "gaussian", generator)
        images = kept.matmat(sketch.extend(products // 2)).detach()
        return leave_one_out_trace(sketch, images)


def leave_one_out_trace(sketch: RangeSketch, images: Float[Tensor, "n r"]) -> TraceEstimate:
    """The estimate from a Gaussian sketch and the products A Q with its basis. Cost: no product."""
    n, m = sketch.vectors.shape
    S = sketch.left_out()
    H = sketch.basis.double().T @ images.double()
    W = sketch.basis.double().T @ sketch.vectors.double()
    inside = W - S * (S * W).sum(dim=0)
    outside = sketch.vectors - sketch.basis @ inside.to(images.dtype)
    rest = sketch.images - images @ inside.to(images.dtype)  # A u_i
    forms = (outside * rest).sum(dim=0, dtype=torch.float64)
    squares = outside.double().square().sum(dim=0)
    free = n - sketch.rank + int(sketch.rank == m)  # dimension of the complement of Q_i
    lost = (S * (H @ S)).sum(dim=0)
    samples = H.trace() - lost + free * forms / squares
    value, error = float(samples.mean()), math.inf
    if m > 1:
        spread = float((samples - samples[0]).var()) / m
        covariance = 0.0
        if m > 2 and sketch.rank == m:
            forward = sketch.basis.double().T @ rest.double()
            backward = images.double().T @ outside.double()
            pairs = _Pairs(S, H, W, forward + backward)
            without = pairs.samples(H.trace() - lost, forms, squares, free + 1)
            covariance = _covariance(samples, without)
        error = math.sqrt(spread + covariance)
    return TraceEstimate(value, error, m, samples.cpu(), m + sketch.rank, method="XTrace")


def _covariance(samples: Tensor, without: Tensor) -> float:
    """Mean covariance of two samples. Where the estimate is negative, which is noise, its size is taken."""
    m = len(samples)
    changes = (samples - without).fill_diagonal_(0)  # row j, column i: t_i - t_i^(j)
    return abs(float((changes * changes.T).sum())) / (m * (m - 1))


class _Pairs:
    """What changes in the sample of vector j where vector i is left out too: row i, column j of each matrix."""

    def __init__(self, S: Tensor, H: Tensor, W: Tensor, mixed: Tensor) -> None:
        cosines, lengths = pair_directions(S)
        along = S.T @ W
        self.along = (along - cosines * along.diagonal()) / lengths  # s_ij^T Q^T w_j, what u_j gains
        K = S.T @ H @ S
        self.lost = (
            K.diagonal()[:, None] - cosines * (K + K.T) + cosines.square() * K.diagonal()
        ) / lengths**2
        crossed = S.T @ mixed
        self.mixed = (crossed - cosines * crossed.diagonal()) / lengths  # u_j^T (A + A^T) Q s_ij

    def samples(self, traces: Tensor, forms: Tensor, squares: Tensor, free: int) -> Tensor:
        """t_j^(i), row i and column j; the diagonal means nothing."""
        grown = forms + self.along * self.mixed + self.along.square() * self.lost
        return traces - self.lost + free * grown / (squares + self.along.square())
