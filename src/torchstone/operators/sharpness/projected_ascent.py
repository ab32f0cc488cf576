r"""Maximising a smooth function over a ball or a box by projected gradients with spectral steps.

From u the next point lies on the segment towards P(u + t g), g the gradient. The step t is that of Barzilai and Borwein,
t = s's / (-s'y) for the last move s and change of gradient y, where the function curved down (s'y < 0). Where it curved up
no length is natural: t = stride s's / s'y. With stride = infinity P(u + t g) is the extreme point of the set along g, so that
a convex function is climbed by jumping from extreme point to extreme point; on a ball and a quadratic that is power
iteration. On a box jumps settle in the first corner that no single gradient leads away from; smaller strides from a start
near the middle follow the flow of the gradient and end in better corners.
Source: Birgin, Martinez & Raydan 2000, SIAM J. Optimization 10(4) (spectral projected gradients; here monotone, with
the infinite stride as the limit of theirs); Jaggi 2013, ICML (the gap).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.operators.sharpness.region import Region

Differentiable = Callable[[Tensor], tuple[float, Tensor]]
_SUFFICIENT = 1e-4  # share of the first-order increase that a step must reach


@dataclass(frozen=True)
class Maximum:
    """The best point found; its value is a lower bound of the maximum.

    Args:
        value: The largest value met.
        point: Where.
        gap: max over the set of g'(v - point): 0 exactly at stationary points, in the function's unit.
        evaluations: Values with gradients that were computed.
        by_start: The largest value met from each start.
    """

    value: float
    point: Tensor
    gap: float
    evaluations: int
    by_start: tuple[float, ...]


def maximise(
    function: Differentiable,
    region: Region,
    starts: Sequence[Float[Tensor, " n"]],
    *,
    evaluations: int = 20,
    stride: float = math.inf,
    tolerance: float = 1e-10,
) -> Maximum:
    """A stationary point of a function over a ball or box, the best of those reached from several starts.

    Values never fall along a run. Points where the function is not finite are never accepted. For a concave function the
    result is the maximum; for others it is a lower bound of it.

    Cost: at most `evaluations` values with gradients a start. Memory: about seven vectors.

    Args:
        function: Value and gradient at a point.
        region: Ball or box.
        starts: Points to begin at; those outside are projected. A start where the gradient is 0 stays where it is.
        evaluations: Budget for each start.
        stride: Length of steps where the function curves up, in units of the Barzilai-Borwein step.
        tolerance: Gap, relative to the value, at which a run ends.

    Returns:
        The best point met from any start.
    """
    best, best_point, best_gap, spent, by_start = -math.inf, torch.zeros_like(starts[0]), math.inf, 0, []
    for start in starts:
        value, point, gap, used = _climb(
            function, region, region.project(start), evaluations, stride, tolerance
        )
        spent += used
        by_start.append(value)
        if value > best:
            best, best_point, best_gap = value, point, gap
    return Maximum(best, best_point, best_gap, spent, tuple(by_start))


def _climb(
    function: Differentiable, region: Region, u: Tensor, evaluations: int, stride: float, tolerance: float
) -> tuple[float, Tensor, float, int]:
    """Value, point, gap and evaluations of one run."""
    value, gradient = function(u)
    spent, step = 1, 0.0
    if not math.isfinite(value):
        return -math.inf, u, math.inf, spent
    while True:
        extreme = region.extreme(gradient)
        gap = _dot(gradient, extreme - u)
        if spent >= evaluations or not gap > tolerance * abs(value):
            return value, u, max(0.0, gap), spent
        if step == 0:
            step = stride if stride == math.inf else 0.1 * float(extreme.norm() / gradient.norm())
        direction = (extreme if step == math.inf else region.project(u + step * gradient)) - u
        slope, share = _dot(gradient, direction), 1.0
        while True:
            trial = u + share * direction
            found, turned = function(trial)
            spent += 1
            if found >= value + _SUFFICIENT * share * slope:  # false for NaN
                break
            if spent >= evaluations or share < 1e-10:
                return value, u, gap, spent
            share *= _shorter(found - value, share * slope)
        if not math.isfinite(found):
            return value, u, gap, spent
        moved = trial - u
        curved = _dot(moved, turned - gradient)
        step = _next_step(_dot(moved, moved), curved, stride)
        u, value, gradient = trial, found, turned


def _next_step(length: float, curved: float, stride: float) -> float:
    """Barzilai and Borwein's step after a move of squared length `length` with s'y = `curved`."""
    if curved < 0:
        return length / -curved
    return stride * length / curved if curved > 0 else math.inf


def _shorter(gain: float, slope: float) -> float:
    """Share of a refused step that maximises the parabola through both values and the slope, in [0.1, 0.5]."""
    if not math.isfinite(gain) or slope <= gain:
        return 0.1
    return min(0.5, max(0.1, slope / (2 * (slope - gain))))


def _dot(a: Tensor, b: Tensor) -> float:
    return float(torch.dot(a, b))
