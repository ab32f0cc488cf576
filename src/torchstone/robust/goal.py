"""What an attacker wants: a loss to be raised, and when the attack has won."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from torchstone.errors import ObjectiveError, SpecimenError
from torchstone.robust.losses import cross_entropy, targeted_cross_entropy
from torchstone.robust.norms import wide

LabelLoss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Goal:
    """The three callables every attack works on; whatever else the model needs is closed over.

    Args:
        outputs: Inputs (N, ...) to the model's outputs (N, ...), differentiable with respect to the inputs.
        loss: Outputs to losses (N,) to be raised.
        success: Outputs to (N,) booleans: which examples the attack has won.
    """

    outputs: Callable[[Tensor], Tensor]
    loss: Callable[[Tensor], Tensor]
    success: Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The goal at one set of inputs.

    Args:
        inputs: (N, ...).
        outputs: (N, ...), detached.
        losses: (N,) in float64.
        success: (N,) booleans; never where the loss is NaN.
        gradient: Of the losses with respect to the inputs, (N, ...), where it was asked for.
    """

    inputs: Tensor
    outputs: Tensor
    losses: Tensor
    success: Tensor
    gradient: Tensor | None = None


def misclassify(logits: Callable[[Tensor], Tensor], labels: Tensor, loss: LabelLoss = cross_entropy) -> Goal:
    """Any class but the label is to be predicted.

    Args:
        logits: Inputs (N, ...) to scores (N, C), C >= 2; a single logit z is to be given as the scores (0, z).
        labels: (N,) integers.
        loss: Logits and labels to losses (N,): `cross_entropy`, `margin`, `dlr`, `carlini_wagner`.

    Example:
        >>> goal = misclassify(lambda x: torch.cat([-x, x], dim=1), torch.tensor([1, 1]))
        >>> evaluate(goal, torch.tensor([[1.0], [-1.0]])).success.tolist()
        [False, True]
    """
    labels = _owned(labels)
    checked = _checked_logits(logits, labels)
    return Goal(checked, lambda z: loss(z, labels), lambda z: z.argmax(dim=1) != labels)


def misclassify_towards(
    logits: Callable[[Tensor], Tensor],
    labels: Tensor,
    targets: Tensor,
    loss: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> Goal:
    """Any class but the label is to be predicted, sought in the direction of a target class.

    Args:
        logits: As in `misclassify`.
        labels: (N,) integers.
        targets: (N,) integers.
        loss: Logits, labels and targets to losses (N,): `targeted_dlr`.
    """
    labels, targets = _owned(labels), _owned(targets)
    checked = _checked_logits(logits, labels, targets)
    return Goal(checked, lambda z: loss(z, labels, targets), lambda z: z.argmax(dim=1) != labels)


def reach_class(
    logits: Callable[[Tensor], Tensor], targets: Tensor, loss: LabelLoss = targeted_cross_entropy
) -> Goal:
    """The target class is to be predicted.

    Args:
        logits: As in `misclassify`.
        targets: (N,) integers.
        loss: Logits and targets to losses (N,): `targeted_cross_entropy`, `targeted_margin`.
    """
    targets = _owned(targets)
    return Goal(
        _checked_logits(logits, targets), lambda z: loss(z, targets), lambda z: z.argmax(dim=1) == targets
    )


def raise_loss(losses: Callable[[Tensor], Tensor], above: float | Tensor = math.inf) -> Goal:
    """The loss is to be raised, for any objective: regression, segmentation, language.

    Args:
        losses: Inputs (N, ...) to losses (N,).
        above: The attack has won where the loss is above this, one number or (N,).
    """
    return Goal(losses, lambda values: values, lambda values: values > above)


def evaluate(goal: Goal, inputs: Tensor) -> Evaluation:
    """Losses and success at the inputs. Cost: one forward pass."""
    with torch.no_grad():
        outputs = goal.outputs(inputs)
        losses = _checked_losses(goal.loss(outputs), inputs)
    return judged(goal, inputs, outputs, losses, None)


def differentiate(goal: Goal, inputs: Tensor) -> Evaluation:
    """Losses, success and the losses' gradient with respect to the inputs alone.

    Cost: one forward and one backward pass; no parameter's gradient is formed. Losses must not mix examples (batch
    normalisation in training mode does): the gradient is that of their sum.

    Raises:
        SpecimenError: The losses do not depend on the inputs through differentiable operations.
    """
    with torch.enable_grad():
        leaf = inputs.detach().clone().requires_grad_()
        outputs = goal.outputs(leaf)
        losses = _checked_losses(goal.loss(outputs), inputs)
        gradient = input_gradient(losses.sum(), leaf)
    return judged(goal, inputs, outputs, losses, gradient)


def input_gradient(total: Tensor, leaf: Tensor, keep_graph: bool = False) -> Tensor:
    """Gradient of a sum with respect to the inputs, by a call that leaves every `.grad` alone.

    Raises:
        SpecimenError: There is no differentiable path from the inputs.
    """
    gradient = None
    if total.requires_grad:
        (gradient,) = torch.autograd.grad(total, leaf, retain_graph=keep_graph, allow_unused=True)
    if gradient is None:
        raise SpecimenError(
            "A gradient attack needs outputs that depend on the inputs through differentiable operations",
            "outputs cut off from the inputs",
            "Remove torch.no_grad(), .detach(), .numpy() or argmax from the forward pass, or use a black-box attack.",
        )
    return gradient.detach()


def judged(
    goal: Goal, inputs: Tensor, outputs: Tensor, losses: Tensor, gradient: Tensor | None
) -> Evaluation:
    """The evaluation of outputs that are there already; a NaN loss is never a success."""
    outputs, losses = outputs.detach(), wide(losses.detach())
    return Evaluation(inputs, outputs, losses, goal.success(outputs) & ~losses.isnan(), gradient)


def _owned(classes: Tensor) -> Tensor:
    """A copy that autograd may keep, even where the caller works under inference_mode."""
    if classes.ndim != 1 or classes.is_floating_point() or classes.dtype == torch.bool:
        raise ObjectiveError(
            "An attack needs integer class labels, shape (N,)",
            f"{classes.dtype} of shape {tuple(classes.shape)}",
            "Convert with .long(); for other tasks use raise_loss.",
        )
    with torch.inference_mode(False):
        return classes.detach().long().clone()


def _checked_logits(logits: Callable[[Tensor], Tensor], *classes: Tensor) -> Callable[[Tensor], Tensor]:
    """The same callable, refusing what is not scores for these classes."""
    lowest = min((int(c.min()) for c in classes if len(c)), default=0)
    highest = max((int(c.max()) for c in classes if len(c)), default=0)

    def checked(inputs: Tensor) -> Tensor:
        scores = logits(inputs)
        if scores.ndim != 2 or scores.shape[0] != len(inputs) or scores.shape[1] < 2:
            raise ObjectiveError(
                f"logits must return scores (N, C) with N = {len(inputs)} and C >= 2",
                f"shape {tuple(scores.shape)}",
                "For one logit z return the two scores (0, z); for other tasks use raise_loss.",
            )
        if any(len(c) != len(inputs) for c in classes) or lowest < 0 or highest >= scores.shape[1]:
            raise ObjectiveError(
                f"An attack needs one label in 0..{scores.shape[1] - 1} for each of {len(inputs)} inputs",
                f"{', '.join(str(len(c)) for c in classes)} labels from {lowest} to {highest}",
                "Pass the labels of these inputs.",
            )
        return scores

    return checked


def _checked_losses(losses: Tensor, inputs: Tensor) -> Tensor:
    if losses.shape != (len(inputs),):
        raise ObjectiveError(
            f"losses must return one loss per example, shape ({len(inputs)},)",
            f"shape {tuple(losses.shape)}",
            'Use reduction="none", and average over positions within each example.',
        )
    return losses
