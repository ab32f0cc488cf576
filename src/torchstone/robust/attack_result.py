"""What an attack found, and the best of what several found."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from torchstone.robust.norms import per_example


@dataclass(frozen=True, eq=False)
class AttackResult:
    """The best perturbed inputs found, per example; the inputs themselves are always among the candidates.

    Args:
        inputs: (N, ...) in the dtype of the inputs, inside ball and box.
        losses: The goal's loss there, (N,) in float64.
        success: Whether the attack has won there, (N,).
        distances: To the clean inputs in the attack's norm, (N,) in float64. A minimal-norm attack gives 0 for inputs
            that are misclassified as they are, and infinity where it found nothing.
        losses_per_step: (steps + 1, N): the losses along the run that the best inputs come from, its start first.
        gradient_evaluations: Backward passes over the batch.
    """

    inputs: Tensor
    losses: Tensor
    success: Tensor
    distances: Tensor
    losses_per_step: Tensor
    gradient_evaluations: int


def strongest(first: AttackResult, *others: AttackResult) -> AttackResult:
    """The best of several attacks on the same inputs, per example: success first, then the higher loss.

    Losses decide only between examples that all attacks broke, or none; that means something only where the attacks
    raise the same loss. `losses_per_step` is the first attack's.
    """
    best = first
    for other in others:
        better = other.success & ~best.success
        better |= (other.success == best.success) & (other.losses > best.losses)
        best = _merge(better, other, best)
    return best


def nearest(first: AttackResult, *others: AttackResult) -> AttackResult:
    """The nearest success of several minimal-norm attacks on the same inputs, per example."""
    best = first
    for other in others:
        best = _merge(other.success & (~best.success | (other.distances < best.distances)), other, best)
    return best


def only_found(result: AttackResult) -> AttackResult:
    """Infinite distances where nothing was found."""
    return replace(result, distances=result.distances.masked_fill(~result.success, torch.inf))


def _merge(mask: Tensor, new: AttackResult, old: AttackResult) -> AttackResult:
    return replace(
        old,
        inputs=torch.where(per_example(mask, old.inputs), new.inputs, old.inputs),
        losses=torch.where(mask, new.losses, old.losses),
        success=torch.where(mask, new.success, old.success),
        distances=torch.where(mask, new.distances, old.distances),
        gradient_evaluations=old.gradient_evaluations + new.gradient_evaluations,
    )
