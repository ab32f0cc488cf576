r"""Non-negative least squares with a certificate.

    min { |A z - y|^2 : z >= 0 }

z is a minimiser if and only if the gain g = A'(y - A z) is at most 0 everywhere and 0 where z > 0. SciPy's solver is tried
first; where its answer fails this test, as it does for some matrices with dependent columns, the active-set method is run
with minimum-norm inner solutions.
Source: Lawson & Hanson 1974, chapter 23, algorithm NNLS; the test is theirs, (23.9).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from torchstone.errors import NumericalError

CERTIFIED = 1e-9


class NonnegativeFit(NamedTuple):
    """A certified minimiser.

    Args:
        weights: z (m,).
        squares: |A z - y|^2, from A and z.
        violation: Largest violation of the optimality conditions, relative to |A| |y| by columns.
    """

    weights: Float[np.ndarray, " m"]
    squares: float
    violation: float


def nonnegative_fit(columns: Float[np.ndarray, "n m"], target: Float[np.ndarray, " n"]) -> NonnegativeFit:
    """The least squares of a non-negative combination of columns.

    Cost: usually a few times that of least squares; at worst exponential in m.

    Args:
        columns: A; columns may be dependent, equal or 0.
        target: y.

    Raises:
        NumericalError: No answer could be certified to 1e-9.

    >>> nonnegative_fit(np.array([[1.0, -1.0], [0.0, 0.0]]), np.array([-2.0, 1.0])).weights.tolist()
    [0.0, 2.0]
    """
    from scipy.optimize import nnls

    lengths = np.linalg.norm(columns, axis=0)
    lengths[lengths == 0] = 1.0
    unit = columns / lengths
    try:
        found = _certified(unit, target, nnls(unit, target)[0])
    except RuntimeError:  # its limit of iterations
        found = None
    if found is None or found.violation > CERTIFIED:
        found = _certified(unit, target, _active_set(unit, target))
    if not found.violation <= CERTIFIED:
        raise NumericalError(
            f"Non-negative least squares must meet its optimality conditions to {CERTIFIED:g}",
            f"a violation of {found.violation:.2g}",
            "Rescale the data.",
        )
    return found._replace(weights=found.weights / lengths)


def _certified(unit: np.ndarray, target: np.ndarray, weights: np.ndarray) -> NonnegativeFit:
    rest = target - unit @ weights
    gain = unit.T @ rest
    wrong = max(
        gain.max(initial=0.0), np.abs(gain[weights > 0]).max(initial=0.0), (-weights).max(initial=0.0)
    )
    scale = max(float(np.linalg.norm(target)), np.finfo(float).tiny)
    return NonnegativeFit(weights, float(rest @ rest), float(wrong) / scale)


def _active_set(unit: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Lawson and Hanson's method: free the most promising weight, solve, and bind those that would turn negative."""
    count = unit.shape[1]
    weights, free = np.zeros(count), np.zeros(count, dtype=bool)
    tolerance = 1e-12 * max(float(np.linalg.norm(target)), np.finfo(float).tiny)
    for _ in range(30 * count + 30):
        gain = np.where(free, -np.inf, unit.T @ (target - unit @ weights))
        if not gain.max(initial=-np.inf) > tolerance:
            break
        free[int(gain.argmax())] = True
        while True:
            wanted = np.zeros(count)
            wanted[free] = np.linalg.lstsq(unit[:, free], target, rcond=1e-12)[0]
            negative = free & (wanted <= 0)
            if not negative.any():
                weights = wanted
                break
            # As far towards the solution as no weight turns negative; those that reach 0 are bound again.
            fall = np.maximum(weights[negative] - wanted[negative], np.finfo(float).tiny)
            share = float((weights[negative] / fall).min())
            weights = weights + share * (wanted - weights)
            free &= weights > 1e-13 * max(1.0, float(np.abs(weights).max()))
            weights[~free] = 0.0
            if not free.any():
                break
    return weights
