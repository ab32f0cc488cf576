r"""Sharpness as the largest rise of the risk in a ball of weights, plain or relative to each weight.

    plain (SAM):      max { f(theta + e) - f(theta) : ||e||_2 <= rho }
    adaptive (ASAM):  max { f(theta + |theta| u) - f(theta) : ||u||_2 <= rho }      (|theta| u elementwise)

The plain one changes when two layers of a ReLU network are rescaled by (c, 1/c), which leaves its outputs alone; the
adaptive one does not, because |theta| u is rescaled along with theta.
Source: Foret, Kleiner, Mobahi & Neyshabur 2021, section 2; Kwon, Kim, Park & Choi 2021, definitions 1 and 2 and equation (5), with
no constant added to |theta|, so that the invariance is exact; Dinh, Pascanu, Bengio & Bengio 2017, section 4.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.errors import SettingError
from torchstone.operators.sharpness.projected_ascent import maximise
from torchstone.operators.sharpness.region import Ball
from torchstone.operators.sharpness.risk_around import RiskAround


@dataclass(frozen=True)
class WorstCase:
    """A rise of the risk in a ball, which the true maximum is not below.

    Args:
        radius: Of the ball.
        rise: The largest rise found, in the loss's unit; never negative, because the ball holds theta itself.
        one_step: The rise after SAM's single step along the gradient.
        change: Where, as a change of the weights (n,).
        gap: First-order room for improvement there, in the loss's unit; 0 at a local maximum.
        evaluations: Gradients that were computed.
        by_start: The largest rise met from each start.
    """

    radius: float
    rise: float
    one_step: float
    change: Tensor
    gap: float
    evaluations: int
    by_start: tuple[float, ...]


def ball_sharpness(
    around: RiskAround,
    radius: float,
    *,
    adaptive: bool = False,
    evaluations: int = 12,
    restarts: int = 2,
    directions: Sequence[Float[Tensor, " n"]] = (),
    generator: torch.Generator,
) -> WorstCase:
    """The largest rise in a ball that projected ascent finds: a lower bound of the sharpness.

    It starts from SAM's step, from random points of the sphere (at a minimum the gradient is 0 and says nothing), and from
    both ends of every given direction, such as the top eigenvector of the Hessian.

    Cost: at most `evaluations` gradients for each of 1 + restarts + 2 len(directions) starts, and one more. Bias: downwards.

    Args:
        around: The risk around a network's weights.
        radius: rho: a length of weights, or of relative changes if adaptive.
        adaptive: Measure every weight's change relative to its size; weights that are 0 stay.
        evaluations: Gradients for each start.
        restarts: Random starts.
        directions: Further starts (in u where adaptive); scaled to the radius, with both signs.
        generator: Draws the random starts.

    Returns:
        The worst case found.
    """
    climb = _Climb(around, around.here.abs() if adaptive else None)
    starts = [sign * direction.to(climb.start) for direction in directions for sign in (1.0, -1.0)]
    return climb.largest(radius, starts, restarts, evaluations, generator)


def ball_sharpness_curve(
    around: RiskAround,
    radii: Sequence[float],
    *,
    adaptive: bool = False,
    evaluations: int = 6,
    restarts: int = 1,
    generator: torch.Generator,
) -> tuple[WorstCase, ...]:
    """The largest rises found in balls of growing radius; each also starts from the last one's worst case.

    Never decreasing in the radius, as the maximum is: a smaller ball's worst case lies in the larger ball too.

    Cost: at most `evaluations` (2 + restarts) gradients a radius. Bias: downwards.

    Args:
        around: The risk around a network's weights.
        radii: Increasing.
        adaptive: As in `ball_sharpness`.
        evaluations: Gradients for each start.
        restarts: Random starts for each radius.
        generator: Draws the random starts.

    Raises:
        SettingError: No radius, or radii that do not increase.
    """
    if not radii or any(not a < b for a, b in itertools.pairwise(radii)):
        raise SettingError("Radii must increase, and be one at least", repr(tuple(radii)), "Sort them.")
    climb = _Climb(around, around.here.abs() if adaptive else None)
    found: list[WorstCase] = []
    warm: list[Tensor] = []
    for radius in radii:
        one = climb.largest(radius, warm, restarts, evaluations, generator)
        if found and one.rise < found[-1].rise:
            one = replace(one, rise=found[-1].rise, change=found[-1].change)
        found.append(one)
        warm = [climb.unscaled(one.change)]
    return tuple(found)


class _Climb:
    """Ascent in u, where the change of the weights is scales * u."""

    def __init__(self, around: RiskAround, scales: Tensor | None) -> None:
        self.around, self.scales = around, scales
        self.start = torch.zeros_like(around.here)
        _, self.gradient = self.rise(self.start)

    def change(self, u: Tensor) -> Tensor:
        return u if self.scales is None else self.scales * u

    def unscaled(self, change: Tensor) -> Tensor:
        if self.scales is None:
            return change
        return torch.where(self.scales > 0, change / self.scales, torch.zeros_like(change))

    def rise(self, u: Tensor) -> tuple[float, Tensor]:
        rise, gradient = self.around.rise_and_gradient(self.change(u))
        return rise, self.change(gradient)

    def largest(
        self, radius: float, starts: list[Tensor], restarts: int, evaluations: int, generator: torch.Generator
    ) -> WorstCase:
        ball = Ball(radius)
        first = ball.extreme(self.gradient)
        random = [ball.sample(self.start, generator) for _ in range(restarts)]
        further = [ball.extreme(one) for one in starts]  # to the sphere: the risk mostly rises outwards
        found = maximise(self.rise, ball, [first, *random, *further], evaluations=evaluations)
        one_step = self.around.rise(self.change(first))
        inside = found.value < 0  # theta itself is the worst point met
        return WorstCase(
            radius=radius,
            rise=0.0 if inside else found.value,
            one_step=one_step,
            change=torch.zeros_like(self.start) if inside else self.change(found.point),
            gap=found.gap,
            evaluations=found.evaluations + 1,
            by_start=found.by_start,
        )
