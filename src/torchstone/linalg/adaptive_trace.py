"""A trace to a tolerance, by whichever method needs the fewest products."""

from __future__ import annotations

import dataclasses
import math
import os
from typing import Any

import torch

from torchstone.linalg.as_linear_map import as_linear_map
from torchstone.linalg.complement import DeflatedMap
from torchstone.linalg.finished_work import FinishedWork
from torchstone.linalg.linear_map import LinearMap, require_square
from torchstone.linalg.probes import draw_probes
from torchstone.linalg.range_sketch import RangeSketch
from torchstone.linalg.resumable import resumable
from torchstone.linalg.sampling import Precision, draw_until, require_at_least
from torchstone.linalg.trace import TraceEstimate, quadratic_forms, sum_of_diagonal
from torchstone.linalg.xtrace import leave_one_out_trace

_FIRST = 8  # vectors of the first sketch
_LEAST = 20  # fresh probes that a standard error is trusted to
_HOPE = 0.7  # what doubling a sketch leaves of the spread, before it was tried
_GAMBLE = 0.2  # a doubling this cheap beside what else it takes is tried: spectra may end suddenly


def trace(
    A: LinearMap | Any,
    *,
    tolerance: float = 0.01,
    absolute: float = 0.0,
    generator: torch.Generator,
    max_products: int = 2000,
    max_sketch: int = 64,
    block: int = 10,
    checkpoint: str | os.PathLike[str] | None = None,
) -> TraceEstimate:
    """The trace up to a standard error of max(tolerance |trace|, absolute).

    `xtrace` with 8 vectors, then 16, 32, ... as long as doubling the sketch saves more products than it costs, going by
    what the last doubling did to the spread, or costs little beside what else is needed. What is then missing comes from fresh random signs g in the complement of the
    sketch's range Q, as in Hutch++: tr(A) = tr(Q^T A Q) + E[g^T (I - Q Q^T) A (I - Q Q^T) g]. As soon as that would
    take n products or more, the trace is computed exactly from n products; at once for n <= 64.

    Unbiased but for stopping on an estimated error, which makes intervals cover a little less than they say.

    Cost: at most max_products, and less than 3 n (a sketch, then n for the exact trace); memory 6 n max_sketch.

    Args:
        A: A square map, or what `as_linear_map` takes.
        tolerance: Standard error relative to |trace|.
        absolute: Standard error that is small enough where the trace may be near zero.
        generator: Draws the probes.
        max_products: At most this many; 36 or more.
        max_sketch: Most vectors in a sketch, 8 or more. Less saves memory.
        block: Columns of a product beyond the sketch.
        checkpoint: A file that keeps what is finished of a long run: the products of the sketch, as `ResumableMap` does,
            and a number for each other. A run with the same arguments and generator goes on from it to the bits of an
            uninterrupted one; it is deleted at the end.

    Returns:
        The estimate, which says its method and whether the tolerance was reached.

    Raises:
        SettingError: Not square, a setting out of range, or a checkpoint of another run.
        FormatError: A damaged checkpoint.
        OutputError: A checkpoint that cannot be written.
        NumericalError: Products with NaN or Inf.

    >>> estimate = trace(torch.diag(torch.arange(1.0, 201) ** -3), tolerance=1e-3, generator=torch.Generator())
    >>> estimate.method, abs(estimate.value / 1.202 - 1) < 0.01
    ('XTrace', True)

    Source: Epperly, Tropp & Webber 2024 (XTrace); Persson, Cortinovis & Kressner 2022, SIAM J. Matrix Anal. Appl. 43(3)
    (Hutch++ that chooses its sketch as it goes).
    """
    A = as_linear_map(A)
    require_square(A, "trace")
    precision = Precision(tolerance, absolute)
    for name, value, least in (
        ("max_products", max_products, 2 * _FIRST + _LEAST),
        ("max_sketch", max_sketch, _FIRST),
        ("block", block, 1),
    ):
        require_at_least(name, value, least)
    settings = {"max_products": max_products, "max_sketch": max_sketch, "block": block}
    wanted = {"tolerance": tolerance, "absolute": absolute}
    with FinishedWork.of(checkpoint, "trace", A, generator, **settings, **wanted) as finished:
        return _trace(A, precision, generator, max_products, max_sketch, block, finished)


def _trace(
    A: LinearMap,
    precision: Precision,
    generator: torch.Generator,
    max_products: int,
    max_sketch: int,
    block: int,
    finished: FinishedWork,
) -> TraceEstimate:
    n = A.shape[0]
    if n <= 64 and n <= max_products:
        return TraceEstimate.exactly(sum_of_diagonal(A, block, finished), n)
    kept = resumable(A, finished)
    sketch, images = (
        RangeSketch(kept, "gaussian", generator),
        torch.zeros(n, 0, dtype=A.dtype, device=A.device),
    )
    spread = math.inf
    while True:
        images = torch.cat([images, kept.matmat(sketch.extend(max(_FIRST, sketch.size))).detach()], dim=1)
        estimate = leave_one_out_trace(sketch, images)
        target = precision.target(estimate.value)
        if estimate.standard_error <= target:
            return estimate
        now, before = float(estimate.samples.std()), spread
        left, spread = (now / before if before < math.inf else _HOPE), now
        fresh = _fresh_probes(now, target)
        doubling = 2 * sketch.size
        enough = left * now <= target * math.sqrt(doubling)  # the larger sketch alone
        doubled = doubling + (0 if enough else _fresh_probes(left * now, target))
        can_double = doubling <= max_sketch and estimate.products + doubling + _LEAST <= max_products
        can_be_exact = estimate.products + n <= max_products
        otherwise = min(fresh, n) if can_be_exact else fresh
        if can_double and (doubled < otherwise or doubling <= _GAMBLE * otherwise):
            continue
        if can_be_exact and fresh >= n:
            return TraceEstimate.exactly(sum_of_diagonal(A, block, finished), estimate.products + n)
        return _on_the_complement(A, sketch, images, precision, max_products, block, finished)


def _fresh_probes(spread: float, target: float) -> float:
    """How many independent probes of this standard deviation reach the target."""
    return max(float(_LEAST), (spread / target) ** 2 if target > 0 else math.inf)


def _on_the_complement(
    A: LinearMap,
    sketch: RangeSketch,
    images: torch.Tensor,
    precision: Precision,
    max_products: int,
    block: int,
    finished: FinishedWork,
) -> TraceEstimate:
    """Hutchinson's estimate of what the sketch leaves, with fresh probes."""
    spent = sketch.size + sketch.rank
    inside = float((sketch.basis * images).sum(dtype=torch.float64))
    outside = DeflatedMap(A, sketch.basis)
    forms = lambda X: inside + quadratic_forms(outside, X)
    draw = lambda count: finished(draw_probes(A, count, sketch.generator, "rademacher"), forms)
    samples, precise = draw_until(draw, precision, _LEAST, max_products - spent, block)
    estimate = TraceEstimate.of(samples, spent + len(samples), precise)
    return dataclasses.replace(estimate, method="Hutchinson beside a sketch")
