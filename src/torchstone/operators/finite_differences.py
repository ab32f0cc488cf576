"""Directional derivatives by central differences, for networks that cannot be differentiated twice."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.operators.parameter_space import ParameterSpace


@contextlib.contextmanager
def shifted(space: ParameterSpace, change: Float[Tensor, " size"]) -> Iterator[None]:
    """Inside, the parameters are moved by `change`; on leaving they are what they were, bit for bit."""
    saved = [parameter.detach().clone() for parameter in space.parameters]
    try:
        # Through .data: no version counter moves, so graphs that others keep at the unmoved parameters stay valid.
        for parameter, step in zip(space.parameters, space.unflatten(change), strict=True):
            parameter.data.add_(step)
        yield
    finally:
        for parameter, value in zip(space.parameters, saved, strict=True):
            parameter.data.copy_(value)


def central_difference(
    function: Callable[[], Tensor], space: ParameterSpace, direction: Float[Tensor, " size"]
) -> Tensor:
    """(F(theta + h v) - F(theta - h v)) / 2h for a function of the parameters, in float64.

    h = eps^(1/3) max(1, ||theta||) / ||v|| balances the two errors, which are then of relative order eps^(2/3), with
    eps of the parameters' coarsest type. Kinks between the two points enter the difference, unlike in autograd.

    Cost: two evaluations of F.

    Source: Nocedal & Wright 2006, section 8.1, equation (8.7).
    """
    step = difference_step(space.values(), direction, max(torch.finfo(p.dtype).eps for p in space.parameters))
    if step == 0:
        return torch.zeros_like(function(), dtype=torch.float64)
    ends = []
    for sign in (1.0, -1.0):
        with shifted(space, sign * step * direction):
            ends.append(function().double())
    return (ends[0] - ends[1]) / (2 * step)


def difference_step(point: Tensor, direction: Tensor, eps: float | None = None) -> float:
    """eps^(1/3) max(1, ||point||) / ||direction||, or 0 where there is no direction; eps of the point's type."""
    length = float(direction.double().norm())
    eps = torch.finfo(point.dtype).eps if eps is None else eps
    return 0.0 if length == 0 else eps ** (1 / 3) * max(1.0, float(point.double().norm())) / length
