"""Fast minimum-norm attack: gradient steps in a ball that shrinks while they succeed and grows while they fail."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from torchstone.errors import SettingError
from torchstone.robust.attack import FirstOrder, Position, ascend, by_distance
from torchstone.robust.attack_result import AttackResult, only_found
from torchstone.robust.ball import Ball, Bounds
from torchstone.robust.boundary import pull_back
from torchstone.robust.goal import misclassify
from torchstone.robust.losses import margin
from torchstone.robust.norms import Norm, distances, dual_lengths, per_example, steepest


def fast_minimum_norm(
    logits: Callable[[Tensor], Tensor],
    labels: Tensor,
    inputs: Tensor,
    *,
    norm: Norm = "linf",
    bounds: Bounds | None = None,
    steps: int = 50,
    shrink: float = 0.05,
    tolerance: float = 1e-6,
) -> AttackResult:
    r"""The smallest perturbation that changes the prediction, as far as first-order search finds it.

    Until an example is misclassified its radius is the first-order estimate
    :math:`\epsilon = \|\delta\| + |m| / \|\nabla m\|_*`, m the margin; from then on the radius shrinks by a factor
    :math:`1 - \gamma` after a success and grows by :math:`1 + \gamma` after a failure. Each step adds :math:`\alpha` radii
    in the steepest direction and projects. Both fall along a cosine, :math:`\alpha` from 2 to 0.01 and :math:`\gamma` from
    `shrink` to `shrink` / 50.

    It differs from the paper in four places: :math:`\alpha` is there a length, tuned to the data set, but inputs here have
    no fixed scale; the direction is the steepest of the norm, not the l2 one throughout; coordinates that the box holds do
    not count in the estimate, and the radius grows in the first phase, too: else estimates can fall short for ever.

    One run gives a distance per example, and so robust accuracy at every radius (`robust_accuracy`).

    Cost: steps backward passes, and some 20 forward passes for `pull_back`.
    Bias: its distances are upper bounds of the smallest ones. Exact for affine networks of two classes.

    Args:
        logits: Inputs (N, ...) to scores (N, C), C >= 2.
        labels: (N,) integers.
        inputs: (N, ...), floating point.
        norm: "linf" or "l2".
        bounds: (low, high) of valid inputs, numbers or tensors; None for no box.
        steps: Number of steps.
        shrink: The first :math:`\gamma`, in (0, 1).
        tolerance: Of `pull_back`, relative to the distance.

    Returns:
        The nearest misclassified inputs found. Losses are margins, distances 0 where the inputs are misclassified as
        they are and infinite where nothing was found.

    Raises:
        SettingError: Integer inputs, or a setting out of range.
        NumericalError: NaN or infinite inputs, or NaN logits at the inputs.
        SpecimenError: Outputs that are not differentiable with respect to the inputs.

    Example:
        >>> weights = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
        >>> found = fast_minimum_norm(lambda x: x @ weights.T, torch.tensor([0]), torch.tensor([[-1.0, -0.5]]))
        >>> round(found.distances.item(), 4)  # 5 / 7
        0.7143

    Source: Pintor, Roli, Brendel & Biggio 2021, algorithm 1.
    """
    if steps < 1 or not tolerance > 0 or not 0 < shrink < 1:
        raise SettingError(
            "steps must be at least 1, tolerance positive and shrink in (0, 1)",
            f"{steps}, {tolerance} and {shrink}",
            "The paper uses 0.05 for shrink.",
        )
    ball = Ball.around(inputs, math.inf, norm, bounds)
    goal = misclassify(logits, labels, margin)
    found = ascend(goal, ball, _Breathing(steps, shrink), prefer=by_distance)
    return only_found(pull_back(goal, ball, found, tolerance))


@dataclass(frozen=True, eq=False)
class _Radius:
    """The current radius and the least distance of a success so far (infinite before the first), one an example."""

    eps: Tensor
    nearest: Tensor


@dataclass(frozen=True)
class _Breathing(FirstOrder):
    steps: int
    shrink: float

    def begin(self, ball: Ball) -> _Radius:
        """No radius yet, no success yet."""
        return _Radius(torch.zeros_like(ball.eps), torch.full_like(ball.eps, math.inf))

    def step(self, here: Position, state: _Radius) -> tuple[Tensor, _Radius]:
        """A step of a share of the radius, after the radius has breathed."""
        seen, ball = here.seen, here.ball
        cosine = (1 + math.cos(math.pi * here.index / self.steps)) / 2
        share, gamma = 0.01 + 1.99 * cosine, self.shrink * (0.02 + 0.98 * cosine)
        away = distances(seen.inputs, ball.origin, ball.norm)
        nearest = torch.where(seen.success, torch.minimum(away, state.nearest), state.nearest)
        gradient = ball.free(here.gradient, here.perturbation).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        slope = dual_lengths(gradient, ball.norm)
        # Without a slope there is no estimate; the radius stays and the example with it.
        estimate = torch.where(slope > 0, away + seen.losses.abs() / slope, state.eps).nan_to_num(nan=0.0)
        # An estimate that ends a rounding error short of the boundary must not be repeated for ever.
        grown = state.eps * (1 + gamma)
        grown = torch.where(torch.isfinite(nearest), grown, torch.maximum(estimate, grown))
        eps = torch.where(seen.success, torch.minimum(state.eps * (1 - gamma), nearest), grown)
        move = per_example(share * eps, here.perturbation) * steepest(gradient, ball.norm)
        return ball.with_eps(eps).project(here.perturbation + move), _Radius(eps, nearest)
