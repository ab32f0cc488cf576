"""The smallest radius at which an attack succeeds, per example, by bisection over the radius."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from torchstone.errors import SettingError
from torchstone.robust.attack_result import AttackResult, nearest, only_found
from torchstone.robust.ball import Ball, Bounds
from torchstone.robust.boundary import pull_back
from torchstone.robust.goal import Goal
from torchstone.robust.norms import Norm
from torchstone.robust.pgd import pgd


class BallAttack(Protocol):
    """An attack inside a ball that can start where another one ended: `pgd`, `apgd`, or a `functools.partial` of them."""

    def __call__(
        self,
        goal: Goal,
        inputs: Tensor,
        eps: float | Tensor,
        *,
        norm: Norm,
        bounds: Bounds | None,
        start: Tensor | None,
        until_broken: bool,
    ) -> AttackResult:
        """The best inputs found inside the ball."""
        ...


def minimal_norm(
    goal: Goal,
    inputs: Tensor,
    eps_max: float,
    *,
    norm: Norm = "linf",
    bounds: Bounds | None = None,
    attack: BallAttack = pgd,
    bisections: int = 8,
    tolerance: float = 1e-6,
) -> AttackResult:
    r"""Upper bound of the smallest perturbation that wins, :math:`\min \|\delta\|` such that the goal is met.

    Each example has its own radius, halfway between the largest at which the attack has failed and the least distance
    at which it has won. Each attack starts at the best point so far, projected into the smaller ball, and what it finds
    is pulled back to the boundary.

    Cost: at most bisections + 1 attacks, and some 20 forward passes after each.
    Bias: an upper bound, since an attack may fail where a perturbation exists. Exact for losses that are monotone
    functions of affine ones.

    Args:
        goal: What is to be won.
        inputs: (N, ...), floating point.
        eps_max: The largest radius of interest, in the unit of the inputs.
        norm: "linf" or "l2".
        bounds: (low, high) of valid inputs, numbers or tensors; None for no box.
        attack: What to run at each radius.
        bisections: Number of radii after the first.
        tolerance: Of `pull_back`, relative to the distance.

    Returns:
        The nearest winning inputs found; distances are 0 where the clean inputs win and infinite where nothing was
        found within eps_max (the inputs are then those of the largest loss).

    Raises:
        SettingError: Integer inputs, or a setting out of range.
        NumericalError: NaN or infinite inputs, or a NaN loss at the inputs.

    Source: Carlini et al. 2019 (on evaluating adversarial robustness), section 5.3: a binary search over the radius for each
    example.
    """
    if bisections < 0 or not tolerance > 0:
        raise SettingError(
            "bisections must be at least 0 and tolerance positive",
            f"{bisections} and {tolerance}",
            "Use 8 and 1e-6.",
        )
    ball = Ball.around(inputs, eps_max, norm, bounds)
    best = _attacked(goal, ball, bounds, attack, None, tolerance)
    fails = torch.zeros_like(ball.eps)
    for _ in range(bisections):
        # Examples that were never broken get no smaller ball: the larger one held nothing.
        open_ones = best.success & (best.distances > fails)
        if not bool(open_ones.any()):
            break
        radius = torch.where(open_ones, (fails + best.distances) / 2, torch.zeros_like(fails))
        found = _attacked(goal, ball.with_eps(radius), bounds, attack, best.inputs, tolerance)
        fails = torch.where(open_ones & ~found.success, radius, fails)
        best = nearest(best, found)
    return best


def _attacked(
    goal: Goal, ball: Ball, bounds: Bounds | None, attack: BallAttack, start: Tensor | None, tolerance: float
) -> AttackResult:
    found = attack(goal, ball.origin, ball.eps, norm=ball.norm, bounds=bounds, start=start, until_broken=True)
    return only_found(pull_back(goal, ball, found, tolerance))
