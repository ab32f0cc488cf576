"""Hutch++: a stochastic trace whose error falls as 1/m instead of 1/sqrt(m)."""

from __future__ import annotations

import os
from typing import Any

import torch

from torchstone.linalg.as_linear_map import as_linear_map
from torchstone.linalg.finished_work import FinishedWork
from torchstone.linalg.linear_map import LinearMap, require_square
from torchstone.linalg.orthonormalise import column_norms, orthonormalise
from torchstone.linalg.probes import Distribution, draw_probes
from torchstone.linalg.resumable import resumable
from torchstone.linalg.sampling import require_at_least
from torchstone.linalg.trace import TraceEstimate, quadratic_forms, sum_of_diagonal


def hutch_plus_plus(
    A: LinearMap | Any,
    *,
    products: int,
    distribution: Distribution = "rademacher",
    generator: torch.Generator,
    checkpoint: str | os.PathLike[str] | None = None,
) -> TraceEstimate:
    """Trace from an exact part on a sketched range and Hutchinson's estimate of the rest.

    With Q = orth(A S), S random (n, m/3), and P = I - Q Q^T: tr(A) = tr(Q^T A Q) + E[(P g)^T A (P g)], the mean over
    the remaining m/3 probes g. Unbiased, for every square A. For positive semi-definite A the error is
    O(tr(A) / m), against Hutchinson's O(tr(A) / sqrt(m)); where nothing stands out of the spectrum it is the error of
    Hutchinson with a third of the probes. The standard error holds given Q and so also without.

    Cost: at most m products in three blocks, n where that is no more (then exact); memory 4 m/3 vectors.

    Args:
        A: A square map, or what `as_linear_map` takes.
        products: m, at least 3; fewer are spent where A S has a smaller rank.
        distribution: Of the entries of S and g: "rademacher" or "gaussian".
        generator: Draws S and the probes.
        checkpoint: A file that keeps what is finished of a long run, ten products at a time: those of the sketch as
            `ResumableMap` does, a number for each other. A run with the same arguments and generator goes on from it to
            the bits of an uninterrupted one; it is deleted at the end.

    Returns:
        The estimate; its probes are those of the rest, its samples include the exact part.

    Raises:
        SettingError: Not square, products < 3, or a checkpoint of another run.
        FormatError: A damaged checkpoint.
        OutputError: A checkpoint that cannot be written.
        NumericalError: Products with NaN or Inf.

    Source: Meyer, Musco, Musco & Woodruff 2021, SOSA, algorithm 1 and theorem 1.1.
    """
    A = as_linear_map(A)
    require_square(A, "hutch_plus_plus")
    require_at_least("products", products, 3)
    settings = {"products": products, "distribution": distribution}
    with FinishedWork.of(checkpoint, "hutch_plus_plus", A, generator, **settings) as finished:
        if products >= A.shape[0]:
            block = 64 if checkpoint is None else 10
            return TraceEstimate.exactly(sum_of_diagonal(A, block, finished), A.shape[0])
        return _estimate(A, products, distribution, generator, finished)


def _estimate(
    A: LinearMap,
    products: int,
    distribution: Distribution,
    generator: torch.Generator,
    finished: FinishedWork,
) -> TraceEstimate:
    sketched = products // 3
    sketch = resumable(A, finished).matmat(draw_probes(A, sketched, generator, distribution)).detach()
    floor = 10 * torch.finfo(A.dtype).eps * float(column_norms(sketch).max())
    Q = orthonormalise(sketch, sketch[:, :0], floor).fresh
    forms = lambda X: quadratic_forms(A, X)
    exact = float(finished.by_block(Q, forms).sum())
    probes = products - 2 * (products // 3)
    outside = draw_probes(A, probes, generator, distribution)
    outside = outside - Q @ (Q.T @ outside)
    samples = exact + finished.by_block(outside, forms)
    return TraceEstimate.of(samples, sketched + Q.shape[1] + probes)
