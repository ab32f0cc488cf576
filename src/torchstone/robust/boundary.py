"""From a misclassified point back towards the clean input, to the boundary between them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from torchstone.robust.attack_result import AttackResult
from torchstone.robust.ball import Ball
from torchstone.robust.goal import Goal, evaluate
from torchstone.robust.norms import distances, per_example, wide


def pull_back(goal: Goal, ball: Ball, result: AttackResult, halvings: int = 20) -> AttackResult:
    r"""Shortens each successful perturbation by bisection over its length, as far as it still succeeds.

    The segment from the clean input to the point found crosses a boundary; after n halvings the point is within
    :math:`2^{-n}` of its own length of a crossing. Examples that are won at the clean input go there.

    Cost: halvings + 1 forward passes, no gradient.

    Args:
        goal: The goal of the attack.
        ball: The clean inputs, norm and box.
        result: What an attack found.
        halvings: Number of bisections.

    Returns:
        The same result, nearer: distances never grow; examples without success are as they were.
    """
    if len(ball.origin) == 0:
        return result
    with torch.inference_mode(False):
        far = wide(result.inputs) - wide(ball.origin)
        clean = evaluate(goal, ball.origin)
        best = _nearer(clean.success, ball, result, ball.origin, clean.losses)
        fails = torch.zeros_like(ball.eps)
        works = torch.where(clean.success, fails, torch.ones_like(fails))
        for _ in range(halvings):
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
