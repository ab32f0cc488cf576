"""Random points of the ball: the weakest black-box attack, and so a check of stronger ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from torchstone.errors import SettingError
from torchstone.robust.attack import Position, ascend
from torchstone.robust.attack_result import AttackResult
from torchstone.robust.ball import Ball, Bounds
from torchstone.robust.goal import Evaluation, Goal, evaluate
from torchstone.robust.norms import Norm


def random_noise(
    goal: Goal,
    inputs: Tensor,
    eps: float | Tensor,
    *,
    generator: torch.Generator,
    norm: Norm = "linf",
    bounds: Bounds | None = None,
    draws: int = 20,
    until_broken: bool = False,
) -> AttackResult:
    r"""The worst of several random points on the surface of the ball.

    A random corner :math:`\epsilon\, s` with fair signs (linf) or a uniform direction of length eps (l2), cut by the
    box. It uses no gradient: where it breaks examples that a gradient attack does not, the gradient misleads.

    Cost: draws + 1 forward passes.

    Args:
        goal: What to raise, and when it is won.
        inputs: (N, ...), floating point.
        eps: Radius, one number or (N,), in the unit of the inputs.
        generator: The source of randomness.
        norm: "linf" or "l2".
        bounds: (low, high) of valid inputs, numbers or tensors; None for no box.
        draws: Number of points.
        until_broken: Stop once every example is broken.

    Returns:
        The best point of each example; `losses_per_step` is (1, N).

    Raises:
        SettingError: Integer inputs, or a setting out of range.
        NumericalError: NaN or infinite inputs, or a NaN loss at the inputs.

    Source: Carlini et al. 2019 (on evaluating adversarial robustness), section 4.11.
    """
    if draws < 1:
        raise SettingError("draws must be at least 1", str(draws), "Ask for one point or more.")
    ball = Ball.around(inputs, eps, norm, bounds)
    if not bool(torch.isfinite(ball.eps).all()):
        raise SettingError("This attack needs a finite eps", "infinity", "Pass a radius.")
    starts = (_surface(ball, generator) for _ in range(draws))
    return ascend(goal, ball, _Stand(), starts, until_broken=until_broken)


def _surface(ball: Ball, generator: torch.Generator) -> Tensor:
    draw = torch.randn(ball.origin.shape, generator=generator, device=generator.device, dtype=torch.float64)
    return ball.furthest(draw.to(ball.origin.device))


@dataclass(frozen=True)
class _Stand:
    steps: int = 0
    gradients_per_step: int = 0

    def begin(self, _ball: Ball) -> None:
        """Nothing to remember."""

    def look(self, goal: Goal, inputs: Tensor) -> Evaluation:
        """No derivatives."""
        return evaluate(goal, inputs)

    def step(self, here: Position, _state: None) -> tuple[Tensor, None]:
        """No move."""
        return here.perturbation, None
