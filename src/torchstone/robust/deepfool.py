"""DeepFool: to the nearest decision boundary of the linearised network, again and again."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from torchstone.errors import SettingError
from torchstone.robust.attack import Position, ascend, by_distance
from torchstone.robust.attack_result import AttackResult, only_found
from torchstone.robust.ball import Ball, Bounds
from torchstone.robust.goal import Evaluation, Goal, evaluate, input_gradient, judged, misclassify
from torchstone.robust.losses import margin
from torchstone.robust.norms import Norm, dual_lengths, per_example, steepest, wide
from torchstone.robust.targeted_apgd import wrong_classes


def deepfool(
    logits: Callable[[Tensor], Tensor],
    labels: Tensor,
    inputs: Tensor,
    *,
    norm: Norm = "l2",
    bounds: Bounds | None = None,
    steps: int = 50,
    overshoot: float = 0.02,
    candidates: int = 9,
) -> AttackResult:
    r"""A small perturbation that changes the prediction, by Newton-like steps onto linearised boundaries.

    With :math:`f_c = z_c - z_y` and :math:`w_c = \nabla f_c`, each step goes to the boundary of least distance
    :math:`|f_c| / \|w_c\|_*` along the steepest direction of w_c; the sum of steps is stretched by 1 + overshoot, so
    that the point lies past the boundary.

    Exact, up to the overshoot, for an affine network without a box. `pull_back` removes the overshoot. In a box, which the
    paper has not, each step is cut at its faces and the next one makes up for it.

    Cost: at most steps * candidates backward passes; it stops when every example is misclassified.
    Bias: its distances are upper bounds of the smallest ones.

    Args:
        logits: Inputs (N, ...) to scores (N, C), C >= 2.
        labels: (N,) integers.
        inputs: (N, ...), floating point.
        norm: "linf" or "l2".
        bounds: (low, high) of valid inputs, numbers or tensors; None for no box.
        steps: Most steps.
        overshoot: Relative length past the boundary.
        candidates: How many wrong classes to look at, those that score highest at the inputs.

    Returns:
        The nearest misclassified inputs met. Losses are margins, distances 0 where the inputs are misclassified as
        they are and infinite where nothing was found.

    Raises:
        SettingError: Integer inputs, or a setting out of range.
        NumericalError: NaN or infinite inputs, or NaN logits at the inputs.
        SpecimenError: Outputs that are not differentiable with respect to the inputs.

    Example:
        >>> weights = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
        >>> found = deepfool(lambda x: x @ weights.T, torch.tensor([0]), torch.tensor([[-1.0, -0.5]]), overshoot=0.0001)
        >>> round(found.distances.item(), 3)  # 5 / 5
        1.0

    Source: Moosavi-Dezfooli, Fawzi & Frossard 2016, algorithm 2; section 3.3 for other norms.
    """
    if steps < 1 or candidates < 1 or not overshoot >= 0:
        raise SettingError(
            "steps and candidates must be at least 1 and overshoot at least 0",
            f"{steps}, {candidates} and {overshoot}",
            "The paper uses 0.02 for the overshoot.",
        )
    ball = Ball.around(inputs, math.inf, norm, bounds)
    goal = misclassify(logits, labels, margin)
    if len(inputs) == 0:
        return ascend(goal, ball, _ToTheBoundary(steps, overshoot, labels[:, None], labels))
    with torch.inference_mode(False):
        labels = labels.detach().long().clone()
        rivals = wrong_classes(evaluate(goal, ball.origin).outputs, labels, candidates)
    method = _ToTheBoundary(steps, overshoot, rivals, labels)
    return only_found(ascend(goal, ball, method, prefer=by_distance, until_broken=True))


@dataclass(frozen=True, eq=False)
class _ToTheBoundary:
    steps: int
    overshoot: float
    rivals: Tensor
    labels: Tensor

    @property
    def gradients_per_step(self) -> int:
        """One backward pass a candidate class."""
        return self.rivals.shape[1]

    def begin(self, ball: Ball) -> Tensor:
        """The sum of steps, without overshoot."""
        return ball.zero()

    def look(self, goal: Goal, inputs: Tensor) -> Evaluation:
        """The gradient of each candidate's lead over the label, (N, K, ...)."""
        with torch.enable_grad():
            leaf = inputs.detach().clone().requires_grad_()
            outputs = goal.outputs(leaf)
            leads = _leads(outputs, self.rivals, self.labels)
            last = leads.shape[1] - 1
            rows = [input_gradient(leads[:, k].sum(), leaf, keep_graph=k < last) for k in range(last + 1)]
        return judged(goal, inputs, outputs, goal.loss(outputs), torch.stack(rows, dim=1))

    def step(self, here: Position, state: Tensor) -> tuple[Tensor, Tensor]:
        """To the nearest linearised boundary; misclassified examples stay."""
        outputs, norm = here.seen.outputs, here.ball.norm
        leads = wide(_leads(outputs, self.rivals, self.labels))
        slopes = dual_lengths(here.gradient.flatten(0, 1), norm).reshape(leads.shape)
        # A lead of exactly zero is a tie that still goes to the label: a rounding error further breaks it.
        rounding = torch.finfo(outputs.dtype).eps * wide(outputs).abs().amax(dim=1, keepdim=True)
        ways = torch.where(slopes > 0, (leads.abs() + rounding) / slopes, torch.inf).nan_to_num(nan=torch.inf)
        shortest, which = ways.min(dim=1)
        go = torch.isfinite(shortest) & ~here.seen.success
        length = torch.where(go, shortest, torch.zeros_like(shortest))
        gradient = here.gradient[torch.arange(len(which), device=which.device), which]
        total = state + per_example(length, state) * steepest(gradient, norm)
        moved = here.ball.project((1 + self.overshoot) * total)
        return moved, moved / (1 + self.overshoot)


def _leads(outputs: Tensor, rivals: Tensor, labels: Tensor) -> Tensor:
    return outputs.gather(1, rivals) - outputs.gather(1, labels[:, None])
