"""The fixed points and limit cycles that orbits of a map end in, and how many starts each of them draws in."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from torchstone.errors import SettingError
from torchstone.memory.orbits import applied, distances, follow, lengths
from torchstone.memory.stability import Map, floquet_multipliers


@dataclass(frozen=True)
class Attractor:
    """A fixed point (period 1) or a limit cycle that orbits ended in.

    Attributes:
        points: In the order of the cycle, (p, ...).
        share: Share of the starts that ended in it.
        residual: |f^p(x) - x| at its first point, in the unit of the states.
        multiplier: Largest absolute Floquet multiplier; below 1 it is stable. NaN where it was not asked for.
    """

    points: Tensor
    share: float
    residual: float
    multiplier: float

    @property
    def period(self) -> int:
        """Points of the cycle."""
        return len(self.points)


@dataclass(frozen=True)
class Attractors:
    """What a set of starts leads to.

    Attributes:
        found: Largest basin first.
        membership: Index in `found` for each start, -1 where it neither rested nor cycled, (B,).
        left: Share of the starts that left the ball.
    """

    found: tuple[Attractor, ...]
    membership: Int[Tensor, " b"]
    left: float


@torch.no_grad()
def find_attractors(
    function: Map,
    starts: Tensor,
    *,
    steps: int = 1000,
    tolerance: float = 1e-6,
    merge: float = 1e-3,
    max_period: int = 8,
    bound: float = 1e6,
    stability: bool = True,
) -> Attractors:
    """Iterate a map from every start, and collect the fixed points and short cycles where the orbits end.

    Cost: at most steps + max_period evaluations on all starts; with `stability` the Jacobians at each point found.
    Bias: only attractors with a start in their basin are found; shares are of the starts given (their sampling error is
    that of a proportion). A slow passage near a ghost of a fixed point can look like rest: compare `multiplier`.

    Args:
        function: Acts on each row of a batch on its own.
        starts: (B, ...).
        steps: Steps before an orbit is looked at.
        tolerance: An orbit has period p when |f^p(x) - x| is at most this, for the smallest such p.
        merge: Attractors nearer to each other than this are one.
        max_period: Longest cycle looked for.
        bound: Norm beyond which an orbit has left.
        stability: Whether to compute Floquet multipliers.

    Returns:
        The attractors with their basins.

    Raises:
        SettingError: Bad starts, steps or tolerances, or a map that changes the shape.

    >>> found = find_attractors(lambda x: (3 * x).tanh(), torch.tensor([[-1.0], [0.5], [2.0]]))
    >>> [(round(float(one.points), 3), round(one.share, 3)) for one in found.found]
    [(0.995, 0.667), (-0.995, 0.333)]
    """
    if max_period < 1 or not merge >= 0:
        raise SettingError(
            "max_period is at least 1 and merge 0 or more", f"{max_period}, {merge}", "Use 8 and 1e-3."
        )
    orbits = follow(function, starts, steps, 0.0, bound=bound)
    path = [orbits.ends]
    period = torch.zeros(len(starts), dtype=torch.long, device=starts.device)
    residual = torch.full((len(starts),), math.inf, dtype=torch.float64, device=starts.device)
    for p in range(1, max_period + 1):
        path.append(applied(function, path[-1]))
        gap = lengths(path[-1] - path[0])
        new = (period == 0) & ~orbits.left & (gap <= tolerance)
        period[new], residual[new] = p, gap[new]
    found, membership = _grouped(torch.stack(path), period, merge)
    attractors = [
        Attractor(
            points,
            float((membership == index).double().mean()),
            float(residual[row]),
            float(floquet_multipliers(function, points)[0].abs()) if stability else math.nan,
        )
        for index, (row, points) in enumerate(found)
    ]
    order = sorted(range(len(attractors)), key=lambda index: -attractors[index].share)
    place = torch.tensor([*(order.index(index) for index in range(len(order))), -1], device=starts.device)
    return Attractors(
        tuple(attractors[index] for index in order), place[membership], float(orbits.left.double().mean())
    )


def _grouped(path: Tensor, period: Tensor, merge: float) -> tuple[list[tuple[int, Tensor]], Tensor]:
    """Cycles that are not near another, each with the row it was read from, and each start's cycle."""
    membership = torch.full_like(period, -1)
    found: list[tuple[int, Tensor]] = []
    ends = path[0]
    while len(rows := ((period > 0) & (membership < 0)).nonzero()):
        row = int(rows[0, 0])
        points = path[: int(period[row]), row]
        near = distances(ends, points).amin(1) <= merge
        same = near & (period == period[row]) & (membership < 0)
        same[row] = True
        membership[same] = len(found)
        found.append((row, points))
    return found, membership


def nearest_stored(ends: Tensor, stored: Tensor, tolerance: float) -> Int[Tensor, " b"]:
    """For each end the stored pattern within `tolerance` of it (the nearest one), or -1.

    Args:
        ends: (B, ...).
        stored: (N, ...).
        tolerance: Euclidean distance.

    Returns:
        Indices (B,).

    >>> nearest_stored(torch.tensor([[0.1], [5.0]]), torch.tensor([[0.0], [1.0]]), 0.2).tolist()
    [0, -1]
    """
    least, index = distances(ends, stored).min(1)
    return torch.where(least <= tolerance, index, -1)
