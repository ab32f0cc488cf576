r"""Empirical risk minimisation by minibatch gradient steps, the same bits from the same seed."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from torchstone.errors import NumericalError, SettingError
from torchstone.linalg.checkpoint import Checkpoint
from torchstone.training.data_parallel import Group, Ranks
from torchstone.training.evaluation import PerExample, check_generator, check_pairs
from torchstone.training.optimizers import OptimizerFactory, made_optimizer, scheduled
from torchstone.training.order import EpochOrder, seeded_epoch
from torchstone.training.presentation import Penalty, Presentation
from torchstone.training.progress_bar import progress_bar
from torchstone.training.run_state import RunState, fingerprint
from torchstone.training.snapshots import Snapshots
from torchstone.training.stepping import Stepper

LITTLE = 2**20  # bytes of examples that are gathered at once: for a small network a gather a step is a cost


@dataclass(frozen=True)
class Epoch:
    """What a callback is told after a pass over the data; the model is in eval mode then.

    Args:
        index: Passes finished, from 1.
        steps: Updates made since the start.
        train_loss: Mean loss over the examples of this pass, each taken just before the update it entered.
        model: The network.
        optimizer: Its optimiser.
    """

    index: int
    steps: int
    train_loss: float
    model: nn.Module
    optimizer: Optimizer


OnEpoch = Callable[[Epoch], Mapping[str, float] | None]
Stop = Callable[[Mapping[str, tuple[float, ...]]], bool]


@dataclass(frozen=True)
class History:
    """What a training run left behind.

    Args:
        series: One value an epoch by name: "train_loss" always, and whatever `on_epoch` returned.
        steps: Updates made.
        stopped: Whether `stop` ended the run before its budget did.
        trajectory: The states that were kept on the way, the first before training; empty unless asked for.
        trajectory_steps: Updates made before each of them.
        ledger: What was noted at each presentation, (epochs, N); NaN where an epoch was cut short. None unless asked for.
    """

    series: Mapping[str, tuple[float, ...]]
    steps: int
    stopped: bool
    trajectory: tuple[Mapping[str, Tensor], ...] = ()
    trajectory_steps: tuple[int, ...] = ()
    ledger: Tensor | None = None

    def __getitem__(self, name: str) -> tuple[float, ...]:
        return self.series[name]

    @property
    def epochs(self) -> int:
        """Passes over the data, the last one possibly cut short by a budget of steps."""
        return len(self.series["train_loss"])


def fit(
    model: nn.Module,
    losses: PerExample,
    x: Tensor,
    y: Tensor,
    *,
    optimizer: Optimizer | OptimizerFactory,
    batch_size: int,
    generator: torch.Generator,
    epochs: int | None = None,
    steps: int | None = None,
    scheduler: LRScheduler | Callable[[Optimizer], LRScheduler] | None = None,
    on_epoch: OnEpoch | None = None,
    stop: Stop | None = None,
    keep_trajectory: int = 0,
    penalty: Penalty | None = None,
    ledger: PerExample | None = None,
    autocast: torch.dtype | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    processes: Group = None,
    progress: str | None = None,
) -> History:
    r"""Minimise the empirical risk :math:`\frac1N \sum_i \ell_i(\theta)` by steps on shuffled minibatches, in place.

    Each epoch visits every example once; the last batch may be shorter and counts by its size in the epoch's loss.
    Each epoch draws its order and a seed for dropout from `generator` before its first step, so the global random
    state neither matters nor changes, and what `on_epoch` measures cannot change the training.

    The model trains in train mode, is in eval mode inside `on_epoch`, and is left in eval mode without gradients.

    Cost: one forward and one backward pass an epoch. Memory: one batch's graph.

    Args:
        model: The network, trained in place.
        losses: Loss by example, for example `evaluation.cross_entropy`.
        x: Inputs (N, ...), on the model's device.
        y: Targets (N, ...).
        optimizer: Over the model's parameters, or a function of the parameters that makes one.
        batch_size: Examples a step.
        generator: On the CPU; the only source of randomness.
        epochs: Passes over the data; this or `steps`.
        steps: Updates, ending within an epoch if need be.
        scheduler: Learning-rate schedule, or a function of the optimiser that makes one; stepped after every *update*.
        on_epoch: Called after each epoch; the numbers it returns are recorded under their names.
        stop: Called after each epoch with the series so far; true ends the training; see `patience.Patience`.
        keep_trajectory: Keep so many states, evenly spaced over the budget of updates with its start and end, as copies
            on the CPU; 0 for none. A run that `stop` ends keeps its last state too.
        penalty: From the network to a number that is added to the mean loss, for example a multiple of a norm.
        ledger: What is noted of each example when it is presented, before the update, for example
            `evaluation.misclassified`; from the same forward pass.
        autocast: Type of the forward pass, torch.bfloat16 or torch.float16 (whose loss is scaled); None for the
            parameters' own.
        checkpoint: A safetensors file, replaced atomically after epochs, from which the same call goes on after a kill and
            ends at the same bits; removed at the end.
        processes: "all", or a process group, that shares every batch; started with `torchrun`.
        progress: Title of a bar with the remaining time, shown on terminals.

    Returns:
        The series, how the run ended, and the states that were kept.

    Raises:
        SettingError: No examples, nothing to train, not exactly one of `epochs` and `steps`, or series that skip epochs.
        ObjectiveError: `losses` fails, or does not return one number per example.
        ProcessError: The processes start from different weights, data or generators.
        FormatError: The checkpoint is damaged.
        OutputError: The checkpoint cannot be written.
        NumericalError: A loss, or the weights after the last step, are not finite; the step is named.

    Example:
        >>> from torchstone.training.evaluation import squared_error
        >>> x = torch.linspace(-1, 1, 32)[:, None]
        >>> model = nn.utils.skip_init(nn.Linear, 1, 1)
        >>> for parameter in model.parameters():
        ...     _ = nn.init.zeros_(parameter)
        >>> history = fit(
        ...     model, squared_error, x, 2 * x + 1, batch_size=8, epochs=30, generator=torch.Generator(),
        ...     optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.2),
        ... )
        >>> history.steps, history["train_loss"][-1] < 1e-6
        (120, True)
    """
    check_pairs(x, y, batch_size)
    check_generator(generator)
    budget = updates(epochs, steps, len(x), batch_size)
    ranks = Ranks(processes)
    identity = fingerprint(model, x, y, generator) if checkpoint is not None or not ranks.alone else {}
    ranks.check_equal("weights, data and generator", str(sorted(identity.items())))
    optimizer = made_optimizer(optimizer, model.parameters())
    scheduler = scheduled(scheduler, optimizer)
    stepper = Stepper(Presentation(model, losses, penalty, ledger), optimizer, ranks, autocast)
    kept = Snapshots(model, keep_trajectory, budget)
    state = RunState(model, optimizer, scheduler, stepper.scaler, generator, kept)
    saved = None
    if checkpoint is not None:
        how = {"batch_size": batch_size, "updates": budget, "optimizer": type(optimizer).__name__}
        saved = Checkpoint(checkpoint, {**identity, **how})
        if (found := saved.load()) is not None:
            state.load(found)
    each = math.ceil(len(x) / batch_size)
    try:
        with progress_bar(
            progress if ranks.first else None, math.ceil((budget - state.steps) / each)
        ) as advance:
            while state.steps < budget and not state.stopped:
                loss = _epoch(state, stepper, ranks, x, y, batch_size, budget)
                epoch = Epoch(len(state.series["train_loss"]) + 1, state.steps, loss, model, optimizer)
                state.series = _extended(state.series, epoch, on_epoch)
                state.stopped = stop is not None and stop(state.series) and state.steps < budget
                if saved is not None and ranks.first:
                    saved.save(state.tensors)
                advance()
        kept.end(state.steps)
        _check_weights(model, state.steps)
    finally:
        model.eval()
        optimizer.zero_grad()
    if saved is not None and ranks.first:
        saved.remove()
    return _history(state)


def _history(state: RunState) -> History:
    noted = torch.stack(state.notes) if state.notes else None
    return History(state.series, state.steps, state.stopped, *state.kept.states, noted)


def _epoch(
    state: RunState, stepper: Stepper, ranks: Ranks, x: Tensor, y: Tensor, batch_size: int, budget: int
) -> float:
    """One pass, or what the budget leaves of it; the mean loss."""
    total = seen = 0
    order = EpochOrder.draw(len(x), state.generator)
    noted = torch.full((len(x),), torch.nan)
    with seeded_epoch(state.model, x.device, ranks.seed(order.seed)):
        for mine, some_x, some_y, count in _batches(
            x, y, order.rows[: (budget - state.steps) * batch_size], batch_size, ranks
        ):
            loss, note = stepper.step(some_x, some_y, count, state.steps + 1)
            total += loss
            seen += count
            if note is not None:
                noted[mine] = note.float().cpu()
            state.steps += 1
            if state.scheduler is not None:
                state.scheduler.step()
            state.kept.after(state.steps)
    ranks.average_buffers(state.model)
    if stepper.notes:
        state.notes.append(ranks.gathered(noted))
    return total / seen


def _batches(
    x: Tensor, y: Tensor, order: Tensor, batch_size: int, ranks: Ranks
) -> Iterator[tuple[Tensor, Tensor, Tensor, int]]:
    """This process's rows, inputs and targets of each batch, and the batch's size; little batches are gathered together."""
    each = sum(t[0].numel() * t.element_size() for t in (x, y)) * batch_size
    for some in order.split(max(1, LITTLE // max(1, each)) * batch_size):
        sizes = [len(rows) for rows in some.split(batch_size)]
        shares = [ranks.share(rows) for rows in some.split(batch_size)]
        mine = torch.cat(shares).to(x.device)
        lengths = [len(share) for share in shares]
        yield from zip(
            shares, x.index_select(0, mine).split(lengths), y[mine].split(lengths), sizes, strict=True
        )


def _extended(
    series: dict[str, tuple[float, ...]], epoch: Epoch, on_epoch: OnEpoch | None
) -> dict[str, tuple[float, ...]]:
    """The series with one epoch more."""
    more = told_by(on_epoch(epoch)) if on_epoch is not None else {}
    expected = set(series) - {"train_loss"}
    if "train_loss" in more or (epoch.index > 1 and set(more) != expected):
        raise SettingError(
            "on_epoch must return the same names after every epoch, train_loss not among them",
            f"{sorted(more)} after epoch {epoch.index}",
            "Return NaN where there is nothing to measure.",
        )
    values = {"train_loss": epoch.train_loss}
    for name, value in more.items():
        try:
            values[name] = float(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise SettingError(
                "on_epoch must return numbers by name", f"{name}: {error}", "Return {'error': 0.1}."
            ) from error
    return {name: (*series.get(name, ()), value) for name, value in values.items()}


def told_by(callback: Any) -> dict[str, Any]:
    """What a callback returned, by name.

    Raises:
        SettingError: Something else than names and values, or nothing.
    """
    if callback is None:
        return {}
    if not isinstance(callback, Mapping):
        raise SettingError(
            "on_epoch must return values by name, or None", f"{callback!r:.80}", "Return {'error': 0.1}."
        )
    return dict(callback)


def updates(epochs: int | None, steps: int | None, count: int, batch_size: int) -> int:
    """Number of updates in so many epochs, or the number itself.

    Raises:
        SettingError: Not exactly one of the two, or none of it.
    """
    budget = epochs if steps is None else steps
    if (epochs is None) == (steps is None) or not hasattr(budget, "__index__") or (budget or 0) < 1:
        raise SettingError(
            "fit needs either epochs or steps, at least 1",
            f"epochs={epochs}, steps={steps}",
            "Pass one of them.",
        )
    return steps if steps is not None else (epochs or 0) * math.ceil(count / batch_size)


def _check_weights(model: nn.Module, step: int) -> None:
    """The last update has no loss after it that would show its failure."""
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise NumericalError(
                f"The weights must stay finite; {name} did not at step {step}",
                "NaN or infinity",
                "Lower the learning rate or clip the gradient.",
            )
