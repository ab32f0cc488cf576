"""From a misclassified point back towards the clean input, to the boundary between them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from torchstone.robust.attack_result import AttackResult
from torchstone.robust.ball import Ball
from torchstone.robust.goal import Goal, evaluate
from torchstone.robust.norms import distances, per_example, wide

# A boundary at the clean input itself would be halved for ever.
_MOST_HALVINGS = 60


def pull_back(goal: Goal, ball: Ball, result: AttackResult, tolerance: float = 1e-6) -> AttackResult:
    r"""Shortens each successful perturbation by bisection over its length, as far as it still succeeds.

    The segment from the clean input to the point found crosses a boundary; the bisection ends where the distance to a
    crossing is known to the tolerance. Examples that are won at the clean input go there. Points so near a boundary may
    round to its other side when they are evaluated in another batch.

    Cost: about :math:`\log_2(r / \mathrm{tolerance}) + 1` forward passes, r the largest factor by which a perturbation is
    shortened, and no gradient.

    Args:
        goal: The goal of the attack.
        ball: The clean inputs, norm and box.
        result: What an attack found.
        tolerance: Relative error of the distance along the segment; infinity leaves the points as they are.

    Returns:
        The same result, nearer: distances never grow; examples without success are as they were.
    """
    if len(ball.origin) == 0 or tolerance == torch.inf:
        return result
    with torch.inference_mode(False):
        far = wide(result.inputs) - wide(ball.origin)
        clean = evaluate(goal, ball.origin)
        best = _nearer(clean.success, ball, result, ball.origin, clean.losses)
        fails = torch.zeros_like(ball.eps)
        works = torch.where(clean.success, fails, torch.ones_like(fails))
        for _ in range(_MOST_HALVINGS):
            still = result.success & (works - fails > tolerance * works)
            if not bool(still.any()):
                break
            middle = (fails + works) / 2
            seen = evaluate(goal, ball.place(per_example(middle, far) * far))
            works = torch.where(seen.success, middle, works)
            fails = torch.where(seen.success, fails, middle)
            best = _nearer(seen.success, ball, best, seen.inputs, seen.losses)
    return best


def _nearer(won: Tensor, ball: Ball, old: AttackResult, inputs: Tensor, losses: Tensor) -> AttackResult:
    away = distances(inputs, ball.origin, ball.norm)
    mask = won & old.success & (away < old.distances)
    return replace(
        old,
        inputs=torch.where(per_example(mask, inputs), inputs, old.inputs),
        losses=torch.where(mask, losses, old.losses),
        distances=torch.where(mask, away, old.distances),
    )
