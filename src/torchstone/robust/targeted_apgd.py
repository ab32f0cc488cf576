"""Auto-PGD towards each of the likeliest wrong classes in turn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from torchstone.errors import SettingError
from torchstone.robust.apgd import AdaptiveStep
from torchstone.robust.attack import ascend, starting_points
from torchstone.robust.attack_result import AttackResult, strongest
from torchstone.robust.ball import Ball, Bounds
from torchstone.robust.goal import Goal, evaluate, misclassify, misclassify_towards
from torchstone.robust.losses import margin, targeted_dlr
from torchstone.robust.norms import Norm


def targeted_apgd(
    logits: Callable[[Tensor], Tensor],
    labels: Tensor,
    inputs: Tensor,
    eps: float | Tensor,
    *,
    targets: int = 9,
    loss: Callable[[Tensor, Tensor, Tensor], Tensor] = targeted_dlr,
    norm: Norm = "linf",
    bounds: Bounds | None = None,
    steps: int = 100,
    generator: torch.Generator | None = None,
) -> AttackResult:
    """Auto-PGD towards each of the best wrong classes in turn; any misclassification counts.

    Often stronger than many restarts of one untargeted attack, which always runs for the same class.

    Cost: steps * targets backward passes (fewer where all examples break early).

    Args:
        logits: Inputs (N, ...) to scores (N, C).
        labels: (N,) integers.
        inputs: As in `apgd`.
        eps: As in `apgd`.
        targets: How many wrong classes to try, those that score highest at the clean inputs; at most C - 1 are.
        loss: Logits, labels and targets to losses (N,). `targeted_dlr` needs four classes.
        norm: "linf" or "l2".
        bounds: As in `apgd`.
        steps: Steps a target.
        generator: Draws a random start for each target; None starts at the inputs themselves.

    Returns:
        The best inputs of all targets, per example; the losses are margins.

    Raises:
        SettingError: As in `apgd`; or fewer classes than the loss needs.

    Source: Croce & Hein 2020 (reliable evaluation of adversarial robustness), section 4.
    """
    ball = Ball.around(inputs, eps, norm, bounds)
    method = AdaptiveStep(steps)
    by_margin = misclassify(logits, labels, margin)
    if targets < 1:
        raise SettingError("targets must be at least 1", str(targets), "Ask for one target or more.")
    if len(inputs) == 0:
        return ascend(by_margin, ball, method)
    ranked = wrong_classes(evaluate(by_margin, ball.origin).outputs, labels, targets)
    results = []
    for target in ranked.unbind(dim=1):
        goal = misclassify_towards(logits, labels, target, loss)
        found = ascend(goal, ball, method, starting_points(ball, None, 1, generator), until_broken=True)
        results.append(_with_losses(found, by_margin))
        if bool(strongest(*results).success.all()):
            break
    return strongest(*results)


def wrong_classes(scores: Tensor, labels: Tensor, most: int) -> Tensor:
    """The highest-scoring classes but the label, best first, (N, min(most, C - 1))."""
    rest = scores.scatter(1, labels[:, None], -torch.inf)
    return rest.topk(min(most, scores.shape[1] - 1), dim=1).indices


def _with_losses(result: AttackResult, goal: Goal) -> AttackResult:
    """Losses that can be compared from one target to the next."""
    with torch.inference_mode(False):
        return replace(result, losses=evaluate(goal, result.inputs).losses)
