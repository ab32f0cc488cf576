"""Fast gradient sign method: one step to the edge of the ball."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from torchstone.robust.attack import FirstOrder, Position, ascend, starting_points
from torchstone.robust.attack_result import AttackResult
from torchstone.robust.ball import Ball, Bounds
from torchstone.robust.goal import Goal
from torchstone.robust.norms import Norm


def fgsm(
    goal: Goal, inputs: Tensor, eps: float | Tensor, *, norm: Norm = "linf", bounds: Bounds | None = None
) -> AttackResult:
    r"""One step from the inputs to the maximiser of the linearised loss, :math:`\arg\max_\delta \langle g, \delta \rangle`.

    That is :math:`\epsilon\, \mathrm{sign}(g)` for linf and :math:`\epsilon\, g / \|g\|_2` for l2 where there is no
    box, and the exact maximiser inside the box where there is one. Exact for a loss that is a monotone function of an
    affine one.

    Cost: one backward pass.
    Bias: what it finds is a lower bound of the worst loss, often a poor one for networks trained against it.

    Args:
        goal: What to raise, and when it is won (`misclassify`, `raise_loss`, ...).
        inputs: (N, ...), floating point.
        eps: Radius, one number or (N,), in the unit of the inputs.
        norm: "linf" or "l2".
        bounds: (low, high) of valid inputs, numbers or tensors; None for no box.

    Returns:
        The better of the step and the inputs themselves, per example.

    Raises:
        SettingError: Integer inputs, a radius or bounds out of range.
        NumericalError: NaN or infinite inputs, or a NaN loss at the inputs.
        SpecimenError: Outputs that are not differentiable with respect to the inputs.

    Example:
        >>> import torch
        >>> from torchstone.robust.goal import misclassify
        >>> goal = misclassify(lambda x: torch.stack([x.sum(1), -x.sum(1)], 1), torch.tensor([0]))
        >>> fgsm(goal, torch.tensor([[0.25, 0.5]]), 0.5).inputs.tolist()
        [[-0.25, 0.0]]

    Source: Goodfellow, Shlens & Szegedy 2015, section 4; for l2, Miyato et al. 2017.
    """
    ball = Ball.around(inputs, eps, norm, bounds)
    return ascend(goal, ball, _ToTheEdge(), starting_points(ball, None, 1, None))


@dataclass(frozen=True)
class _ToTheEdge(FirstOrder):
    steps: int = 1

    def begin(self, _ball: Ball) -> None:
        """Nothing to remember."""

    def step(self, here: Position, _state: None) -> tuple[Tensor, None]:
        """To the edge."""
        return here.ball.furthest(here.gradient), None
