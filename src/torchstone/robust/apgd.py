"""Auto-PGD: projected gradient ascent with momentum whose step size adapts to progress, per example."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from torchstone.errors import SettingError
from torchstone.robust.attack import FirstOrder, Position, ascend, starting_points
from torchstone.robust.attack_result import AttackResult
from torchstone.robust.ball import Ball, Bounds
from torchstone.robust.goal import Goal
from torchstone.robust.norms import Norm, per_example, steepest, wide


def apgd(
    goal: Goal,
    inputs: Tensor,
    eps: float | Tensor,
    *,
    norm: Norm = "linf",
    bounds: Bounds | None = None,
    steps: int = 100,
    restarts: int = 1,
    generator: torch.Generator | None = None,
    start: Tensor | None = None,
    momentum: float = 0.25,
    patience: float = 0.75,
    until_broken: bool = False,
) -> AttackResult:
    r"""Projected gradient ascent with momentum and an adaptive step size.

    .. math::
        z = \Pi(\delta_k + \eta\, v(g_k)), \qquad
        \delta_{k+1} = \Pi(\delta_k + (1 - m)(z - \delta_k) + m (\delta_k - \delta_{k-1})).

    The step size starts at 2 eps. At checkpoints, which come at shrinking intervals, an example's step is halved and it
    goes back to its best point, if its loss rose in less than the share `patience` of the steps since the last one, or if
    neither its step nor its best loss has changed since.

    Cost: steps * restarts backward passes; two more copies of the inputs than `pgd`.
    Bias: what it finds is a lower bound of the worst loss in the ball.

    Args:
        goal: What to raise, and when it is won. With `misclassify`, the loss may be `cross_entropy`, `dlr`, `margin`.
        inputs: (N, ...), floating point.
        eps: Radius, one number or (N,), in the unit of the inputs.
        norm: "linf" or "l2".
        bounds: (low, high) of valid inputs, numbers or tensors; None for no box.
        steps: Steps a run.
        restarts: Runs; the best of all is kept, per example.
        generator: Draws random starting points; None starts at the inputs themselves.
        start: Inputs (N, ...) at which the first run starts, projected into the ball.
        momentum: Weight m of the last move, in [0, 1); the paper's alpha is 1 - m.
        patience: Share of steps that must raise the loss, the paper's rho, in (0, 1].
        until_broken: Stop once every example is broken. Enough for robust accuracy; the losses are then no maxima.

    Returns:
        The best inputs of all runs and steps, per example.

    Raises:
        SettingError: Integer inputs, or a setting out of range.
        NumericalError: NaN or infinite inputs, or a NaN loss at the inputs.
        SpecimenError: Outputs that are not differentiable with respect to the inputs.

    Source: Croce & Hein 2020 (reliable evaluation of adversarial robustness), algorithm 1 and section 3.
    """
    ball = Ball.around(inputs, eps, norm, bounds)
    method = AdaptiveStep(steps, momentum, patience)
    starts = starting_points(ball, start, restarts, generator)
    return ascend(goal, ball, method, starts, until_broken=until_broken)


def checkpoints(steps: int) -> tuple[int, ...]:
    r"""Steps after which the step size may be halved: :math:`w_j = \lceil p_j\, \mathrm{steps} \rceil`.

    :math:`p_1 = 0.22` and :math:`p_{j+1} = p_j + \max(p_j - p_{j-1} - 0.03,\ 0.06)`.

    Example:
        >>> checkpoints(100)
        (22, 41, 57, 70, 80, 87, 93, 99)
    """
    # In hundredths, so that the ceiling is not at the mercy of rounding.
    last, share, found = 0, 22, []
    while share < 100:
        found.append(-(-share * steps // 100))
        last, share = share, share + max(share - last - 3, 6)
    return tuple(dict.fromkeys(found))


@dataclass(frozen=True, eq=False)
class _Progress:
    """What the method remembers, one row an example."""

    size: Tensor
    previous: Tensor
    last_loss: Tensor
    rises: Tensor
    best: Tensor
    best_gradient: Tensor
    best_loss: Tensor
    best_loss_then: Tensor
    halved_then: Tensor


@dataclass(frozen=True)
class AdaptiveStep(FirstOrder):
    """The method of `apgd`, for attacks built on it."""

    steps: int
    momentum: float = 0.25
    patience: float = 0.75

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise SettingError("steps must be at least 1", str(self.steps), "Ask for one step or more.")
        if not (0 <= self.momentum < 1 and 0 < self.patience <= 1):
            raise SettingError(
                "momentum must lie in [0, 1) and patience in (0, 1]",
                f"{self.momentum} and {self.patience}",
                "The paper's values are 0.25 and 0.75.",
            )

    def begin(self, ball: Ball) -> _Progress:
        """Step size 2 eps; nothing seen."""
        zero, worst = ball.zero(), torch.full_like(ball.eps, -torch.inf)
        none = torch.zeros_like(ball.eps)
        return _Progress(2 * ball.eps, zero, worst, none, zero, zero, worst, worst, none.bool())

    def step(self, here: Position, state: _Progress) -> tuple[Tensor, _Progress]:
        """One step with momentum, from the best point where the step was halved."""
        state = _recorded(here, state)
        ball, start, gradient = here.ball, here.perturbation, wide(here.gradient)
        if here.index in checkpoints(self.steps):
            state, halved = self._halved(here.index, state)
            back = per_example(halved, start)
            start = torch.where(back, state.best, start)
            gradient = torch.where(back, state.best_gradient, gradient)
        momentum = self.momentum if here.index > 0 else 0.0
        direction = steepest(gradient, ball.norm)
        ahead = ball.project(start + per_example(state.size, direction) * direction)
        mixed = (1 - momentum) * (ahead - start) + momentum * (start - state.previous)
        return ball.project(start + mixed), replace(state, previous=start)

    def _halved(self, index: int, state: _Progress) -> tuple[_Progress, Tensor]:
        """The state after a checkpoint, and for which examples the step was halved."""
        marks = (0, *checkpoints(self.steps))
        interval = index - marks[marks.index(index) - 1]
        slow = state.rises < self.patience * interval
        stuck = ~state.halved_then & (state.best_loss <= state.best_loss_then)
        halved = slow | stuck
        return replace(
            state,
            size=torch.where(halved, state.size / 2, state.size),
            rises=torch.zeros_like(state.rises),
            best_loss_then=state.best_loss,
            halved_then=halved,
        ), halved


def _recorded(here: Position, state: _Progress) -> _Progress:
    """The state after one more evaluation."""
    losses = here.seen.losses
    better = losses > state.best_loss
    where = per_example(better, here.perturbation)
    return replace(
        state,
        last_loss=losses,
        rises=state.rises + (losses > state.last_loss) if here.index > 0 else state.rises,
        best=torch.where(where, here.perturbation, state.best),
        best_gradient=torch.where(where, wide(here.gradient), state.best_gradient),
        best_loss=torch.where(better, losses, state.best_loss),
    )
