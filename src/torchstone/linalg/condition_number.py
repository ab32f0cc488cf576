"""The spectral condition number of a map, with bounds, and honest where the small end is out of reach."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch

from torchstone.errors import SettingError
from torchstone.linalg.as_linear_map import as_linear_map
from torchstone.linalg.eigen import extreme_eigenpairs
from torchstone.linalg.linear_map import LinearMap
from torchstone.linalg.singular_triplets import singular_triplets, singular_values


class Conditioning(Enum):
    """What is known of a condition number; each value is a whole sentence."""

    EXACT = "All singular values are known to rounding."
    BOUNDED = "Both ends of the spectrum converged, and bound the condition number."
    LOWER_BOUND = "The small end did not converge: the condition number is at least this."
    SINGULAR = "The map is singular to rounding, or zero: the condition number is infinite."


@dataclass(frozen=True)
class ConditionNumber:
    """kappa = sigma_max / sigma_min of a map, |lambda|_max / |lambda|_min of a symmetric one.

    Attributes:
        value: The estimate: the ratio of the values found; infinite for a singular map.
        lower: kappa is at least this, whatever the search has missed.
        upper: kappa is at most this, if the search met both ends (99% sure where their `others` say so); infinite where
            the small end has not converged.
        largest: sigma_max found.
        smallest: sigma_min found: the true one is not larger.
        smallest_error: Residual of the smallest.
        kind: What is known, as a sentence.
        products: Matrix-vector products spent.
    """

    value: float
    lower: float
    upper: float
    largest: float
    smallest: float
    smallest_error: float
    kind: Conditioning
    products: int


def condition_number(
    A: LinearMap | Any,
    *,
    relative: float = 0.05,
    max_products: int | None = None,
    capacity: int = 200,
    dense: int = 1024,
    generator: torch.Generator,
) -> ConditionNumber:
    """The spectral condition number of a symmetric map (indefinite too) or of a general one.

    Up to min(m, n) = `dense` the whole spectrum is computed. Beyond, a map declared symmetric has both ends of its spectrum
    found at once, and a tighter tolerance is asked for until the residual of the small end is at most `relative` of
    it. Where the ends differ in sign, |lambda|_min lies inside the spectrum and is found as smallest singular value, as
    for general maps. Ritz values lie inside the spectrum, so their ratio is always a lower bound; it is all that is left
    where the budget ends before the small end has converged.

    Cost: O(sqrt(kappa)) products for a definite map, O(kappa) for others, at most `max_products`; memory `capacity`
    vectors, of m + n numbers for general maps. Bias: downwards.

    Args:
        A: A map, or what `as_linear_map` takes; it must know its transpose unless it is symmetric.
        relative: How accurate the small end must be.
        max_products: Budget; None for 5000.
        capacity: Vectors kept at a time, at least 24.
        dense: Up to this min(m, n), and within the budget, every singular value is computed.
        generator: Draws the random directions.

    Returns:
        The number with its bounds, and a sentence on what is known.

    Raises:
        SettingError: A setting out of range, or an unknown transpose.
        NumericalError: Products with NaN or Inf.

    >>> found = condition_number(torch.diag(torch.tensor([-4.0, 2.0, 1.0])), generator=torch.Generator())
    >>> round(found.value, 4), found.kind.name
    (4.0, 'EXACT')

    Source: Golub & Van Loan, Matrix Computations (4th ed.), section 2.6.2; Ritz values lie inside: Parlett, The Symmetric
    Eigenvalue Problem, section 10.1.
    """
    A = as_linear_map(A)
    if not 0 < relative < 1:
        raise SettingError("relative must lie between 0 and 1", f"{relative}", "0.05 asks for 5%.")
    max_products = 5000 if max_products is None else max_products
    if max_products < 32 or capacity < 24:
        raise SettingError(
            "condition_number needs max_products >= 32 and capacity >= 24",
            f"{max_products} and {capacity}",
            "Raise them.",
        )
    if min(A.shape) <= min(dense, max_products):
        values = singular_values(A)
        ends = _Ends(float(values[0]), 0.0, float(values[-1]), 0.0, min(A.shape), exact=True)
    else:
        ends = _definite_ends(A, relative, max_products, capacity, generator) if A.symmetric else None
        if ends is None or ends.indefinite:
            spent = ends.products if ends else 0
            ends = _general_ends(A, relative, max_products, spent, capacity, generator)
    return _judge(A, ends, relative)


@dataclass(frozen=True)
class _Ends:
    """Absolute values at both ends, with their residuals."""

    largest: float
    largest_error: float
    smallest: float
    smallest_error: float
    products: int
    exact: bool = False
    indefinite: bool = False


def _definite_ends(
    A: LinearMap, relative: float, budget: int, capacity: int, generator: torch.Generator
) -> _Ends:
    tolerance, start, products = 1e-3, None, 0
    while True:
        found = extreme_eigenpairs(
            A,
            largest=1,
            smallest=1,
            tolerance=tolerance,
            max_products=budget - products,
            generator=generator,
            capacity=capacity,
            start=start,
        )
        products += found.products
        top, bottom = float(found.largest.values[0]), float(found.smallest.values[0])
        errors = float(found.largest.residuals[0]), float(found.smallest.residuals[0])
        if abs(bottom) > abs(top):
            top, bottom, errors = bottom, top, errors[::-1]
        size, rounding = abs(top), 20 * torch.finfo(A.dtype).eps
        indefinite = top * bottom < 0 and abs(bottom) > rounding * size
        ends = _Ends(size, errors[0], abs(bottom), errors[1], products, indefinite=indefinite)
        tight = errors[1] <= relative * abs(bottom) or tolerance <= rounding
        if ends.indefinite or tight or not found.converged or budget - products < 32:
            return ends
        # A tenth less each time, or at once what the value found asks for.
        needed = relative * abs(bottom) / size if size else rounding
        tolerance = max(rounding, min(tolerance / 10, needed))
        start = torch.cat([found.largest.vectors, found.smallest.vectors], dim=1)


def _general_ends(
    A: LinearMap, relative: float, budget: int, spent: int, capacity: int, generator: torch.Generator
) -> _Ends:
    top = singular_triplets(A, 1, generator=generator, max_products=max(12, (budget - spent) // 4))
    spent, size = spent + top.products, float(top.values[0])
    tolerance, rounding = relative / 10, 20 * torch.finfo(A.dtype).eps
    while True:
        low = singular_triplets(
            A,
            1,
            which="smallest",
            tolerance=tolerance,
            max_products=max(12, budget - spent),
            capacity=capacity,
            generator=generator,
        )
        spent += low.products
        smallest, error = float(low.values[0]), float(low.residuals[0])
        done = error <= relative * smallest or tolerance <= rounding or not low.converged
        if done or budget - spent < 24:
            return _Ends(size, float(top.residuals[0]), smallest, error, spent)
        tolerance = max(rounding, min(tolerance / 10, relative * smallest / size))


def _judge(A: LinearMap, ends: _Ends, relative: float) -> ConditionNumber:
    """What the ends say."""
    largest, smallest = ends.largest, ends.smallest
    rounding = torch.finfo(A.dtype).eps * largest
    # The smallest value of a matrix is known to eps |A| and no better, times a slow growth in its size.
    noise = rounding * (math.sqrt(max(A.shape)) if ends.exact else 20)
    if smallest <= noise:
        kind, value, lower, upper = Conditioning.SINGULAR, math.inf, largest / max(noise, 1e-300), math.inf
    elif ends.exact:
        kind, value = Conditioning.EXACT, largest / smallest
        lower, upper = (largest - noise) / (smallest + noise), (largest + noise) / (smallest - noise)
    else:
        value = lower = largest / smallest
        certain = ends.smallest_error <= relative * smallest
        kind = Conditioning.BOUNDED if certain else Conditioning.LOWER_BOUND
        gap = smallest - ends.smallest_error
        upper = (largest + ends.largest_error) / gap if certain else math.inf
    error = noise if ends.exact else ends.smallest_error
    return ConditionNumber(value, lower, upper, largest, smallest, error, kind, ends.products)
