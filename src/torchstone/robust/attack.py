"""The loop of every gradient attack; the methods supply the steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from torchstone.errors import NumericalError, SettingError
from torchstone.robust.attack_result import AttackResult
from torchstone.robust.ball import Ball
from torchstone.robust.goal import Evaluation, Goal, differentiate, evaluate
from torchstone.robust.norms import distances, per_example, wide

State = TypeVar("State")
Prefer = Callable[[Evaluation, Evaluation, Ball], Tensor]


@dataclass(frozen=True, eq=False)
class Position:
    """Where a run is: all a method needs to make its next step.

    Args:
        index: Number of the step, from 0.
        ball: Where the attack may move.
        perturbation: (N, ...) in float64.
        seen: The goal at the inputs placed there.
        gradient: What `look` differentiated there.
    """

    index: int
    ball: Ball
    perturbation: Tensor
    seen: Evaluation
    gradient: Tensor


class Method(Protocol[State]):
    """One kind of attack: a number of steps, and how to make one from what is seen at the current inputs."""

    @property
    def steps(self) -> int:
        """Steps of one run."""
        ...

    @property
    def gradients_per_step(self) -> int:
        """Backward passes of one `look`."""
        ...

    def begin(self, ball: Ball, /) -> State:
        """The state before the first step."""
        ...

    def look(self, goal: Goal, inputs: Tensor, /) -> Evaluation:
        """The goal and its derivatives at the inputs."""
        ...

    def step(self, here: Position, state: State, /) -> tuple[Tensor, State]:
        """The next perturbation, inside the ball, and the next state."""
        ...


def by_success(new: Evaluation, best: Evaluation, _ball: Ball) -> Tensor:
    """Success first, then the higher loss."""
    gained = new.success & ~best.success
    return gained | ((new.success == best.success) & (new.losses > best.losses))


def by_distance(new: Evaluation, best: Evaluation, ball: Ball) -> Tensor:
    """The nearest success; without one the clean inputs stay."""
    nearer = distances(new.inputs, ball.origin, ball.norm) < distances(best.inputs, ball.origin, ball.norm)
    return new.success & (nearer | ~best.success)


def ascend(
    goal: Goal,
    ball: Ball,
    method: Method[State],
    starts: Iterable[Tensor | None] = (None,),
    prefer: Prefer = by_success,
    until_broken: bool = False,
) -> AttackResult:
    """Runs a method from each start and keeps the best inputs of each example.

    Cost: (steps * gradients_per_step) backward passes a start, one forward pass a step and one more a start; memory
    for about ten copies of the inputs in float64, whatever the number of steps and starts.

    Args:
        goal: What to raise, and when it is won.
        ball: Where to look.
        method: How to move.
        starts: Perturbations (N, ...) inside the ball; None is the clean inputs. Taken one after another.
        prefer: Which of two evaluations to keep, (N,).
        until_broken: Stop once every example is broken. Enough for robust accuracy; the losses are then no maxima.

    Returns:
        The best of all starts and steps, per example.

    Raises:
        NumericalError: The loss is NaN at the clean inputs.
    """
    # Autograd must work even where the caller is under no_grad or inference_mode.
    with torch.inference_mode(False):
        if len(ball.origin) == 0:
            return _nothing(ball, method.steps)
        clean = evaluate(goal, ball.origin)
        _check_clean(clean)
        best, trace = clean, clean.losses.expand(method.steps + 1, -1)
        used = 0
        for run, start in enumerate(starts):
            if until_broken and bool(best.success.all()):
                break
            found, losses, gradients = _run(goal, ball, method, start, clean, prefer, until_broken)
            better = prefer(found, best, ball)
            best, used = _choose(better, found, best), used + gradients
            # The first run's losses stand even where nothing beat the clean inputs.
            trace = losses if run == 0 else torch.where(better, losses, trace)
        return AttackResult(
            best.inputs,
            best.losses,
            best.success,
            distances(best.inputs, ball.origin, ball.norm),
            trace,
            used,
        )


def _run(
    goal: Goal,
    ball: Ball,
    method: Method[State],
    start: Tensor | None,
    clean: Evaluation,
    prefer: Prefer,
    until_broken: bool,
) -> tuple[Evaluation, Tensor, int]:
    """One run: the best evaluation, the losses (steps + 1, N) and the backward passes."""
    perturbation = ball.zero() if start is None else start
    state, best, losses, used = method.begin(ball), clean, [], 0
    for index in range(method.steps):
        seen = method.look(goal, ball.place(perturbation))
        used += method.gradients_per_step
        losses.append(seen.losses)
        best = _choose(prefer(seen, best, ball), seen, best)
        if until_broken and bool(best.success.all()):
            break
        assert seen.gradient is not None
        here = Position(index, ball, perturbation, seen, seen.gradient)
        perturbation, state = method.step(here, state)
    else:
        seen = evaluate(goal, ball.place(perturbation))
        losses.append(seen.losses)
        best = _choose(prefer(seen, best, ball), seen, best)
    # A run that stopped early stays where it stopped.
    losses += [losses[-1]] * (method.steps + 1 - len(losses))
    return best, torch.stack(losses), used


def starting_points(
    ball: Ball, start: Tensor | None, restarts: int, generator: torch.Generator | None
) -> Iterator[Tensor | None]:
    """The starts of an attack: `start` first where there is one, then random points, or the clean inputs once.

    Args:
        ball: Where to start.
        start: Inputs (N, ...) to start the first run at; projected into the ball.
        restarts: Number of runs.
        generator: Draws the random starts; None starts at the clean inputs.

    Raises:
        SettingError: More than one run without a generator, no run, or a ball without a finite radius.
    """
    if restarts < 1:
        raise SettingError("restarts must be at least 1", str(restarts), "Ask for one run or more.")
    if generator is None and restarts > 1:
        raise SettingError(
            "Several restarts need a generator to draw their starts from",
            f"restarts={restarts} and generator=None",
            "Pass generator=torch.Generator().manual_seed(0).",
        )
    if not bool(torch.isfinite(ball.eps).all()):
        raise SettingError("This attack needs a finite eps", "infinity", "Use a minimal-norm attack.")
    return _starts(ball, start, restarts, generator)


def _starts(
    ball: Ball, start: Tensor | None, restarts: int, generator: torch.Generator | None
) -> Iterator[Tensor | None]:
    if start is not None:
        yield ball.project(wide(start.detach()) - wide(ball.origin))
        restarts -= 1
    for _ in range(restarts):
        yield None if generator is None else ball.random(generator)


class FirstOrder:
    """What gradient methods share: one gradient a step."""

    @property
    def gradients_per_step(self) -> int:
        """One backward pass."""
        return 1

    def look(self, goal: Goal, inputs: Tensor) -> Evaluation:
        """Losses and their gradient."""
        return differentiate(goal, inputs)


def _choose(mask: Tensor, new: Evaluation, old: Evaluation) -> Evaluation:
    """The new evaluation where the mask says so; gradients are not carried along."""
    return Evaluation(
        inputs=torch.where(per_example(mask, old.inputs), new.inputs, old.inputs),
        outputs=torch.where(per_example(mask, old.outputs), new.outputs, old.outputs),
        losses=torch.where(mask, new.losses, old.losses),
        success=torch.where(mask, new.success, old.success),
    )


def _check_clean(clean: Evaluation) -> None:
    bad = int(clean.losses.isnan().sum())
    if bad:
        raise NumericalError(
            "An attack needs a loss that is a number at the clean inputs",
            f"NaN for {bad} of {len(clean.losses)} examples",
            "Find the layer that produces NaN.",
        )


def _nothing(ball: Ball, steps: int) -> AttackResult:
    none = torch.zeros(0, dtype=torch.float64, device=ball.origin.device)
    return AttackResult(ball.origin, none, none.bool(), none, none.expand(steps + 1, 0), 0)
