"""Projected gradient ascent with a fixed step size."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from torchstone.errors import SettingError
from torchstone.robust.attack import FirstOrder, Position, ascend, starting_points
from torchstone.robust.attack_result import AttackResult
from torchstone.robust.ball import Ball, Bounds
from torchstone.robust.goal import Goal
from torchstone.robust.norms import Norm, per_example, steepest


def pgd(
    goal: Goal,
    inputs: Tensor,
    eps: float | Tensor,
    *,
    norm: Norm = "linf",
    bounds: Bounds | None = None,
    steps: int = 40,
    step_size: float | Tensor | None = None,
    restarts: int = 1,
    generator: torch.Generator | None = None,
    start: Tensor | None = None,
    until_broken: bool = False,
) -> AttackResult:
    r"""Projected gradient ascent :math:`\delta \leftarrow \Pi(\delta + \alpha\, v(g))`, v the steepest direction of unit norm.

    The projection :math:`\Pi` onto ball and box is exact, so a fixed point of the iteration on an affine loss is its
    maximiser, with and without a box.

    Cost: steps * restarts backward passes.
    Bias: what it finds is a lower bound of the worst loss in the ball.

    Args:
        goal: What to raise, and when it is won (`misclassify`, `raise_loss`, ...).
        inputs: (N, ...), floating point.
        eps: Radius, one number or (N,), in the unit of the inputs.
        norm: "linf" or "l2".
        bounds: (low, high) of valid inputs, numbers or tensors; None for no box.
        steps: Steps a run.
        step_size: Length of a step, one number or (N,). None takes 2.5 eps / steps, with which every point of the
            ball can be reached from every other.
        restarts: Runs; the best of all is kept, per example.
        generator: Draws random starting points; None starts at the inputs themselves.
        start: Inputs (N, ...) at which the first run starts, projected into the ball.
        until_broken: Stop once every example is broken. Enough for robust accuracy; the losses are then no maxima.

    Returns:
        The best inputs of all runs and steps, per example.

    Raises:
        SettingError: Integer inputs, or a setting out of range.
        NumericalError: NaN or infinite inputs, or a NaN loss at the inputs.
        SpecimenError: Outputs that are not differentiable with respect to the inputs.

    Example:
        >>> from torchstone.robust.goal import raise_loss
        >>> goal = raise_loss(lambda x: x.square().sum(1))
        >>> pgd(goal, torch.tensor([[1.0, -1.0]]), 0.5).losses.item()
        4.5

    Source: Madry et al. 2018, section 2.1; the step size is that of its experiments with l2 attacks.
    """
    ball = Ball.around(inputs, eps, norm, bounds)
    if steps < 1:
        raise SettingError("steps must be at least 1", str(steps), "Ask for one step or more.")
    size = 2.5 * ball.eps / steps if step_size is None else torch.as_tensor(step_size).to(ball.eps)
    if size.ndim > 1 or not bool((size >= 0).all()):
        raise SettingError(
            "step_size must be a number >= 0, or one per example",
            f"{step_size}",
            "Use None for 2.5 eps / steps.",
        )
    starts = starting_points(ball, start, restarts, generator)
    method = _FixedStep(steps, size.expand(len(ball.eps)))
    return ascend(goal, ball, method, starts, until_broken=until_broken)


@dataclass(frozen=True, eq=False)
class _FixedStep(FirstOrder):
    steps: int
    size: Tensor

    def begin(self, _ball: Ball) -> None:
        """Nothing to remember."""

    def step(self, here: Position, _state: None) -> tuple[Tensor, None]:
        """Up the gradient, and back into the ball."""
        direction = steepest(here.gradient, here.ball.norm)
        return here.ball.project(here.perturbation + per_example(self.size, direction) * direction), None
