"""Langevin search for a change of decision: noisy sign ascent in a box."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from torchstone.errors import SettingError
from torchstone.robust.attack import FirstOrder, Position, ascend
from torchstone.robust.attack_result import AttackResult
from torchstone.robust.ball import Ball, Bounds
from torchstone.robust.goal import misclassify
from torchstone.robust.losses import margin
from torchstone.robust.norms import steepest


def langevin_search(
    logits: Callable[[Tensor], Tensor],
    inputs: Tensor,
    radius: float | Tensor,
    *,
    generator: torch.Generator,
    bounds: Bounds | None = None,
    steps: int = 20,
    step_size: float | None = None,
    noise: float = 0.8,
) -> AttackResult:
    r"""Looks for inputs in the box :math:`|\hat x - x|_\infty \le r` with another decision than at x.

    An input with one is *critical*; the share of critical inputs is the critical sample ratio. Steps are

    .. math:: \delta \leftarrow \Pi_r\bigl(\delta + \alpha\,\mathrm{sign}\nabla m + \beta_t\,\eta\bigr), \qquad
        m = \max_{c \ne k} f_c - f_k,\quad k = \arg\max_c f_c(x),\quad \eta \sim N(0, I).

    The noise falls linearly from :math:`\beta_0 = \text{noise} \cdot \alpha` to zero at half the steps: the search gets off
    flat and misleading places first and ends in a corner of the box, where a linear decision is exact: critical if and only
    if :math:`|f| \le r \|w\|_1`. The published search keeps its noise and lowers :math:`f_k` alone.

    Cost: `steps` backward passes, fewer once every input is found critical. Bias: what it finds is a lower bound.

    Args:
        logits: Inputs (N, ...) to scores (N, C), C >= 2.
        inputs: (N, ...), floating point.
        radius: r, one number or (N,), in the unit of the inputs.
        generator: Draws the noise.
        bounds: (low, high) of valid inputs, numbers or tensors; None for no box.
        steps: Steps.
        step_size: alpha; None takes 4 r / steps, so that the noiseless half alone can cross the box.
        noise: Noise of the first step in units of alpha.

    Returns:
        For each input where the decision changed most; `success` says whether it is another one.

    Raises:
        SettingError: Integer inputs, or a setting out of range.
        NumericalError: NaN or infinite inputs, or a NaN score at the inputs.
        SpecimenError: Scores that are not differentiable with respect to the inputs.

    Example:
        >>> import torch
        >>> scores = lambda x: torch.cat([x, -x], dim=1)
        >>> draw = torch.Generator().manual_seed(0)
        >>> langevin_search(scores, torch.tensor([[0.1], [0.3]]), 0.2, generator=draw).success.tolist()
        [True, False]

    Source: Arpit et al. 2017, algorithm 1 (LASS).
    """
    ball = Ball.around(inputs, radius, "linf", bounds)
    finite = bool(torch.isfinite(ball.eps).all())
    if steps < 1 or not noise >= 0 or not (step_size is None or step_size > 0) or not finite:
        raise SettingError(
            "langevin_search needs a finite radius, at least one step, noise >= 0 and a positive step_size",
            f"steps={steps}, noise={noise}, step_size={step_size}",
            "Use the defaults.",
        )
    with torch.no_grad():
        decisions = logits(inputs).argmax(dim=1)
    goal = misclassify(logits, decisions, margin)
    size = 4 * ball.eps / steps if step_size is None else torch.full_like(ball.eps, step_size)
    return ascend(goal, ball, _Langevin(steps, size, noise, generator), until_broken=True)


@dataclass(frozen=True, eq=False)
class _Langevin(FirstOrder):
    steps: int
    size: Tensor
    noise: float
    generator: torch.Generator

    def begin(self, _ball: Ball) -> None:
        """Nothing to remember."""

    def step(self, here: Position, _state: None) -> tuple[Tensor, None]:
        """Up the gradient with noise, and back into the box."""
        move = steepest(here.gradient, here.ball.norm)
        left = max(0.0, 1 - 2 * here.index / self.steps)
        if left and self.noise:
            draw = torch.randn(
                move.shape, generator=self.generator, device=self.generator.device, dtype=torch.float64
            )
            move = move + self.noise * left * draw.to(move)
        size = self.size.reshape(-1, *[1] * (move.ndim - 1))
        return here.ball.project(here.perturbation + size * move), None
