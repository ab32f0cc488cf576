"""Robust accuracy as a function of the radius."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from torchstone.errors import SettingError
from torchstone.robust.attack_result import AttackResult
from torchstone.robust.ball import Bounds
from torchstone.robust.goal import Goal
from torchstone.robust.minimal_norm import BallAttack
from torchstone.robust.norms import Norm, per_example
from torchstone.robust.pgd import pgd


@dataclass(frozen=True, eq=False)
class RobustCurve:
    """What attacks found at rising radii; an upper bound of the accuracy under the worst perturbation.

    Args:
        radii: (K,) ascending, in the unit of the inputs.
        accuracy: (K,) share of examples not broken, non-increasing; NaN without examples.
        broken: (K, N) whether each example was broken at this radius or a smaller one.
        losses: (K, N) the largest loss found at this radius or a smaller one, in float64.
        inputs: (N, ...) the inputs that broke each example first, or those of the largest loss.
        gradient_evaluations: Backward passes over the batch.
    """

    radii: Tensor
    accuracy: Tensor
    broken: Tensor
    losses: Tensor
    inputs: Tensor
    gradient_evaluations: int


def robust_accuracy(distances: Tensor, radii: Sequence[float] | Tensor) -> Tensor:
    r"""Share of examples whose nearest adversarial input is further than each radius, :math:`P(d > \epsilon)`.

    Args:
        distances: (N,) from a minimal-norm attack: 0 for misclassified inputs, infinite where nothing was found.
        radii: (K,), in the same unit.

    Returns:
        (K,) float64, non-increasing in the radius; NaN without examples.

    Example:
        >>> robust_accuracy(torch.tensor([0.0, 0.5, torch.inf]), [0.0, 0.5, 1.0]).tolist()
        [0.666..., 0.333..., 0.333...]
    """
    radii = torch.as_tensor(radii, dtype=distances.dtype, device=distances.device)
    return (distances[None, :] > radii[:, None]).double().mean(dim=1)


def robust_curve(
    goal: Goal,
    inputs: Tensor,
    radii: Sequence[float],
    *,
    norm: Norm = "linf",
    bounds: Bounds | None = None,
    attack: BallAttack = pgd,
    until_broken: bool = False,
) -> RobustCurve:
    """Attacks at each radius in turn, starting where the last one ended.

    Balls are nested, so an example that is broken at one radius is broken at every larger one, and its loss there is at
    least as large: the curve is monotone by construction, not by luck of the attack.

    Cost: one attack a radius. `fast_minimum_norm` with `robust_accuracy` gives the accuracies for the price of one attack,
    without losses.

    Args:
        goal: What is to be won.
        inputs: (N, ...), floating point.
        radii: Ascending, in the unit of the inputs.
        norm: "linf" or "l2".
        bounds: (low, high) of valid inputs, numbers or tensors; None for no box.
        attack: What to run at each radius.
        until_broken: Stop at a radius once every example is broken. Enough for the accuracies; the losses are then
            lower than they could be.

    Returns:
        The curve.

    Raises:
        SettingError: Radii that do not ascend, integer inputs, or a setting out of range.
        NumericalError: NaN or infinite inputs, or a NaN loss at the inputs.

    Source: Carlini et al. 2019 (on evaluating adversarial robustness), section 5.3; section 5.2 for monotonicity.
    """
    if len(radii) == 0 or any(not a < b for a, b in pairwise(radii)):
        raise SettingError("radii must be ascending and at least one", f"{list(radii)}", "Sort them.")
    best: AttackResult | None = None
    first = inputs
    broken, losses, used = [], [], 0
    for eps in radii:
        start = None if best is None else best.inputs
        found = attack(goal, inputs, eps, norm=norm, bounds=bounds, start=start, until_broken=until_broken)
        used += found.gradient_evaluations
        won = found.success if not broken else broken[-1] | found.success
        top = found.losses if not losses else torch.maximum(losses[-1], found.losses)
        keep = torch.zeros_like(won) if not broken else broken[-1]
        first = torch.where(per_example(keep, inputs), first, found.inputs)
        broken.append(won)
        losses.append(top)
        best = found
    return _curve(radii, broken, losses, first, used)


def _curve(
    radii: Sequence[float], broken: list[Tensor], losses: list[Tensor], inputs: Tensor, used: int
) -> RobustCurve:
    held = torch.stack(broken)
    grid = torch.tensor(list(radii), dtype=torch.float64)
    accuracy = (~held).double().mean(dim=1)
    return RobustCurve(grid, accuracy, held, torch.stack(losses), inputs, used)
