"""A few extreme eigenpairs of a symmetric map, by thick-restarted Lanczos with a look at what it may have missed."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.errors import MemoryBudgetError, NumericalError, SettingError
from torchstone.linalg.as_linear_map import as_linear_map
from torchstone.linalg.checkpoint import Checkpoint
from torchstone.linalg.eigen_search import (
    CHAIN,
    GUARD,
    EigenSearch,
    Found,
    Progress,
    SearchSettings,
    Wanted,
    identify,
)
from torchstone.linalg.linear_map import LinearMap, require_symmetric
from torchstone.linalg.sampling import require_generator

Which = Literal["largest", "smallest", "magnitude"]


@dataclass(frozen=True)
class Eigenpairs:
    """Approximate eigenpairs of a symmetric A, with their residuals.

    An eigenvalue of A lies within residuals[i] of values[i], and, where the next eigenvalue is a gap away, within
    residuals[i]^2 / gap.

    Attributes:
        values: Eigenvalues (k,) in float64: descending for "largest", ascending for "smallest", by descending
            magnitude for "magnitude".
        vectors: Orthonormal eigenvectors, columns (n, k), in the map's dtype.
        residuals: ||A v - lambda v|| (k,) in float64, rounding errors included.
        products: Matrix-vector products spent.
        converged: Whether every residual is at most tolerance times the largest |Ritz value| met.
        others: With 99% probability over the random directions, at most k eigenvalues of A lie beyond this: above it
            for "largest", below it for "smallest", above it in magnitude for "magnitude". Infinite where nothing was
            certified; beyond every number where k = n.
    """

    values: Float[Tensor, " k"]
    vectors: Float[Tensor, "n k"]
    residuals: Float[Tensor, " k"]
    products: int
    converged: bool
    others: float = math.nan


@dataclass(frozen=True)
class ExtremeEigenpairs:
    """Eigenpairs at both ends of a spectrum, from one Krylov space.

    Attributes:
        largest: The largest eigenvalues, descending. Its `products` are those of both ends.
        smallest: The smallest eigenvalues, ascending.
        products: Matrix-vector products spent, for both ends together.
        converged: Whether both ends are.
    """

    largest: Eigenpairs
    smallest: Eigenpairs
    products: int
    converged: bool


def top_eigenpairs(
    A: LinearMap | Any,
    k: int,
    *,
    which: Which = "largest",
    tolerance: float = 1e-3,
    max_products: int | None = None,
    generator: torch.Generator,
    block: int | None = None,
    capacity: int | None = None,
    memory_bytes: int | None = None,
    start: Float[Tensor, "n b"] | None = None,
    certify: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Eigenpairs:
    """The k extreme eigenpairs of a symmetric map, multiplicities included.

    A V = V T + r e_m^T is grown from one random vector, which needs the fewest products, and restarted with the wanted
    Ritz vectors and the next best when the room is full. One vector sees one copy of a multiple eigenvalue. So the
    search then looks into the complement of what it found, from another random vector: what shows up there is taken
    in and the search goes on; what does not is bounded (`others`).

    Cost: at the default tolerance 2 to 4 products a pair where the wanted eigenvalues stand apart, and some 5 to 10
    for `certify`; up to 100 a pair at the edge of a continuous bulk, at most `max_products`; memory of `capacity`
    vectors and about k + 16 + 3 block more.
    Bias: the values of "largest" err downwards, those of "smallest" upwards. Like every search by products alone, this
    makes it only unlikely that a wanted pair is overlooked.

    Args:
        A: A symmetric map, or what `as_linear_map` takes.
        k: How many pairs, 1 to n.
        which: "largest" or "smallest" by value, or "magnitude" for the largest absolute values.
        tolerance: Residual norms to reach, relative to |lambda_1|, the largest |Ritz value| met.
        max_products: Budget of products, at least 2k + block + 4; None for max(1000, 100 k).
        generator: Draws the start and the directions of the look elsewhere.
        block: Columns of a product, 1 to n; None for 1. More need more products: use it where many columns at once are
            several times cheaper than one after another.
        capacity: Vectors kept at a time, at least 3k + 4 block + 4 (or n); None for 20 + 4k + 4 block, or what
            `memory_bytes` leaves.
        memory_bytes: Budget for all vectors together.
        start: Columns (n, b) to start from instead of a random vector, such as the eigenvectors of a similar map.
        certify: Whether to look elsewhere at all. Without, fewer products, and no protection against copies.
        checkpoint: A file that keeps the state of a long run, in safetensors. A run with the same arguments goes on
            from it, to the same bits, for one more product, which is not counted; it is deleted at the end. The budget
            of products may differ. Saving takes at most some 5% of the time.
        progress: Called with the number of converged pairs and k.

    Returns:
        The pairs; `converged` is False where the budget ended the search, or where the products are too inexact for
        the tolerance; the residuals still hold.

    Raises:
        SettingError: Not symmetric; k, block, tolerance, max_products or capacity out of range; a checkpoint of another
            run or another map.
        MemoryBudgetError: `memory_bytes` is too small for k pairs.
        NumericalError: Products with NaN or Inf, or that are not symmetric.
        FormatError: A damaged checkpoint.
        OutputError: A checkpoint that cannot be written.

    >>> top_eigenpairs(torch.diag(torch.tensor([3.0, 3.0, 1.0])), 2, generator=torch.Generator()).values.numpy().round(4)
    array([3., 3.])

    Source: Lanczos 1950; Wu & Simon 2000, SIAM J. Matrix Anal. Appl. 22(2), for thick restarts; Golub & Underwood 1977
    for blocks; residual bounds: Parlett, The Symmetric Eigenvalue Problem, sections 4.5 and 11.7; bounds on the others:
    see `ComplementChain`.
    """
    if which not in ("largest", "smallest", "magnitude"):
        raise SettingError("which must be largest, smallest or magnitude", repr(which), "Pick one of them.")
    A = as_linear_map(A)
    require_symmetric(A, "top_eigenpairs")
    _require_range("k", k, 1, A.shape[0])
    wanted = Wanted(**{which: k})
    settings = _settings(A, wanted, tolerance, max_products, block, capacity, memory_bytes, certify)
    found = _search(A, settings, generator, start, checkpoint, progress)
    return _pairs(found, list(range(k)), which, A.shape[0])


def extreme_eigenpairs(
    A: LinearMap | Any,
    *,
    largest: int,
    smallest: int,
    tolerance: float = 1e-3,
    max_products: int | None = None,
    generator: torch.Generator,
    block: int | None = None,
    capacity: int | None = None,
    memory_bytes: int | None = None,
    start: Float[Tensor, "n b"] | None = None,
    certify: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> ExtremeEigenpairs:
    """Both ends of the spectrum of a symmetric map from one Krylov space, which approximates both at once.

    Accuracy, cost and memory: as of `top_eigenpairs` with k = largest + smallest, in products about those of the slower end.

    Args:
        A: A symmetric map, or what `as_linear_map` takes.
        largest: How many of the largest eigenvalues, 1 to n.
        smallest: How many of the smallest, 1 to n. The ends may overlap.
        tolerance: Residual norms to reach, relative to the largest |Ritz value| met.
        max_products: As for `top_eigenpairs`, like all that follow.
        generator: Draws the random directions.
        block: Columns of a product.
        capacity: Vectors kept at a time.
        memory_bytes: Budget for all vectors together.
        start: Columns to start from.
        certify: Whether to look for what the search has missed.
        checkpoint: File for the state of a long run.
        progress: Called with the number of converged pairs and how many are wanted.

    Returns:
        The pairs of both ends.

    Raises:
        SettingError: Not symmetric, or a setting out of range.
        MemoryBudgetError: `memory_bytes` is too small.
        NumericalError: Products with NaN or Inf, or that are not symmetric.

    >>> ends = extreme_eigenpairs(torch.diag(torch.arange(5.0)), largest=2, smallest=1, generator=torch.Generator())
    >>> ends.largest.values.numpy().round(4), abs(ends.smallest.values.numpy()).round(4)
    (array([4., 3.]), array([0.]))

    Source: as for `top_eigenpairs`.
    """
    A = as_linear_map(A)
    require_symmetric(A, "extreme_eigenpairs")
    n = A.shape[0]
    _require_range("largest", largest, 1, n)
    _require_range("smallest", smallest, 1, n)
    wanted = Wanted(largest=largest, smallest=smallest)
    settings = _settings(A, wanted, tolerance, max_products, block, capacity, memory_bytes, certify)
    found = _search(A, settings, generator, start, checkpoint, progress)
    values = found.values[found.order[: min(largest + smallest, n)]]
    down = values.argsort(descending=True, stable=True).tolist()
    top = _pairs(found, down[:largest], "largest", n)
    bottom = _pairs(found, down[::-1][:smallest], "smallest", n)
    return ExtremeEigenpairs(top, bottom, found.products, found.converged)


def _search(
    A: LinearMap,
    settings: SearchSettings,
    generator: torch.Generator,
    start: Tensor | None,
    checkpoint: str | os.PathLike[str] | None,
    progress: Progress | None,
) -> Found:
    require_generator(generator)
    if start is not None:
        A._check_input(start, (A.shape[0], start.shape[1] if start.ndim == 2 else -1))
        _require_range("columns of start", start.shape[1], 1, settings.capacity - settings.block)
        if not bool(start.isfinite().all()):
            raise NumericalError("start must be finite", "NaN or Inf in it", "Check what computed it.")
    kept = None
    if checkpoint is not None:
        kept = Checkpoint(checkpoint, identify(A, settings, generator, start))
    return EigenSearch(A, settings, generator, start, kept, progress).run()


def _settings(
    A: LinearMap,
    wanted: Wanted,
    tolerance: float,
    max_products: int | None,
    block: int | None,
    capacity: int | None,
    memory_bytes: int | None,
    certify: bool,
) -> SearchSettings:
    n, k = A.shape[0], min(wanted.total, A.shape[0])
    block = 1 if block is None else block
    _require_range("block", block, 1, n)
    if not 0 < tolerance < 1:
        raise SettingError("tolerance must lie between 0 and 1", f"{tolerance}", "1e-3 is usual.")
    least = min(3 * k + 4 * block + GUARD, n)
    if capacity is None:
        capacity = 20 + 4 * k + 4 * block
        if memory_bytes is not None:
            capacity = _affordable(A, k, block, least, memory_bytes)
    _require_range("capacity", capacity, least, None)
    max_products = max(1000, 100 * k) if max_products is None else max_products
    _require_range("max_products", max_products, 2 * k + block + GUARD, None)
    return SearchSettings(wanted, tolerance, max_products, block, capacity, certify)


def _affordable(A: LinearMap, k: int, block: int, least: int, memory_bytes: int) -> int:
    """How many vectors fit the budget besides those that every search needs, at most 20 + 8k + 4 block."""
    vector = A.shape[0] * torch.finfo(A.dtype).bits // 8
    beside = 2 * k + CHAIN + 3 * block
    capacity = memory_bytes // vector - beside
    if capacity < least:
        raise MemoryBudgetError(
            f"{k} eigenpairs of {A} need at least {(least + beside) * vector:,} bytes",
            f"a budget of {memory_bytes:,}",
            "Raise memory_bytes, or ask for fewer pairs.",
        )
    return min(capacity, 20 + 8 * k + 4 * block)


def _pairs(found: Found, chosen: list[int], which: Which, n: int) -> Eigenpairs:
    """Some of the wanted pairs, which come first in the order found."""
    values = found.values[found.order[chosen]]
    bounds = {"largest": found.above, "smallest": found.below, "magnitude": max(found.above, -found.below)}
    others = bounds[which]
    if len(chosen) == n:
        others = math.inf if which == "smallest" else -math.inf
    return Eigenpairs(
        values, found.vectors[:, chosen], found.residuals[chosen], found.products, found.converged, others
    )


def _require_range(name: str, value: int, low: int, high: int | None) -> None:
    if not isinstance(value, Integral) or value < low or (high is not None and value > high):
        wanted = f"at least {low}" if high is None else f"between {low} and {high}"
        raise SettingError(f"{name} must be {wanted}", f"{value}", "Pass such a whole number.")
