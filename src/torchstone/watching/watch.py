"""Watch a network while it trains: what goes wrong is said when it goes wrong, within a share of the training time."""

from __future__ import annotations

import contextlib
import datetime
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from torchstone.errors import NotApplicableError, SettingError
from torchstone.objectives import Objective
from torchstone.specimen import keeping_random_states
from torchstone.watching.alerts import Alerts
from torchstone.watching.closure import after_closure
from torchstone.watching.kept import Kept
from torchstone.watching.loggers.base import Logger
from torchstone.watching.loggers.json_lines import JsonLines
from torchstone.watching.probe import EXAMPLES, probe
from torchstone.watching.quantities import ALL, CHEAP, Quantity, choose
from torchstone.watching.record import Alert, Header, Record
from torchstone.watching.rest import at_rest
from torchstone.watching.schedule import Every, Schedule
from torchstone.watching.state import State

MAX_RECORDS = 100_000
IDLE = 10
TRIES = 3


class TrainingWarning(UserWarning):
    """Something about a training run that its owner should know."""


class Watch:
    """A watcher of one training run; see `torchstone.watch`.

    Attributes:
        records: What was measured so far, the newest last (the last 100,000).
        alerts: What was said so far.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        data: Any = None,
        *,
        every: Every = "auto",
        budget: float = 0.10,
        quantities: str | Sequence[str | Quantity] | None = None,
        objective: Objective | None = None,
        batch_size: int | None = None,
        examples: int = EXAMPLES,
        folder: str | Path | None = None,
        loggers: Sequence[Logger] = (),
        show: bool = True,
        seed: int = 0,
        resumed: int = 0,
    ) -> None:
        if not isinstance(model, nn.Module) or not isinstance(optimizer, Optimizer):
            raise SettingError(
                "watch() needs a torch.nn.Module and a torch.optim.Optimizer",
                f"{type(model).__name__} and {type(optimizer).__name__}",
                "Call watch(model, optimizer, ...).",
            )
        self.model, self.optimizer, self.show = _unwrapped(model), optimizer, show
        self.records: list[Record] = []
        self.alerts: list[Alert] = []
        self._kept = Kept(self.model, optimizer)
        self._probe_arguments = (objective, batch_size, examples, seed)
        self._data = data
        self._bench = probe(data, self.model, optimizer, *self._probe_arguments)
        self.schedule = Schedule(self._chosen(quantities), every, budget, resumed)
        self._alerts = Alerts()
        self._not_applicable: dict[str, int] = {}
        self._left_out: dict[str, str] = {}
        alone = not (torch.distributed.is_available() and torch.distributed.is_initialized())
        leads = alone or torch.distributed.get_rank() == 0
        self._loggers: list[Logger] = [*loggers, *([JsonLines(folder)] if folder is not None else [])]
        self._loggers = self._loggers if leads else []
        self._leads = leads
        self._said: set[str] = set()
        self._hooks: list[Any] = []
        if isinstance(resumed, bool) or not isinstance(resumed, int) or resumed < 0:
            raise SettingError(
                "resumed must be the number of steps that the run had taken before",
                repr(resumed),
                "Pass a whole number, 0 for a new run.",
            )
        self._step = self._resumed = resumed
        self._stepped, self._idle = False, 0
        self._due: list[Quantity] = []
        self._loss_sum: Tensor | float = 0.0
        self._loss_count = 0
        self._started = self._spent = self._kept_seconds = 0.0

    def _chosen(self, quantities: str | Sequence[str | Quantity] | None) -> list[Quantity]:
        default = ALL if self._bench is not None else (*CHEAP, "stable_rank")
        asked = default if quantities is None else quantities
        asked = (asked,) if isinstance(asked, str) else tuple(asked)
        chosen: list[Quantity] = []
        for one in asked:
            chosen += [one] if isinstance(one, Quantity) else choose(one, self.model)
        if self._bench is None and (missing := [one.key for one in chosen if one.of_probe]):
            if quantities is None or isinstance(quantities, str):
                return [one for one in chosen if not one.of_probe]
            raise SettingError(
                f"{missing[0]} needs data to measure on", "none", "Pass a Specimen or a batch to watch()."
            )
        return chosen

    # -- the training loop calls these -----------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._started = time.perf_counter()
        self._hooks = [
            self.optimizer.register_step_pre_hook(self._before_step),
            self.optimizer.register_step_post_hook(self._after_step),
        ]
        if not self._kept.parameters:
            self._say_once(
                "strange", "the optimiser holds none of the model's trainable parameters: no gradient is seen"
            )
        lr = self.optimizer.param_groups[0].get("lr")
        series = {
            name: one for quantity in self.schedule.quantities for name, one in quantity.described().items()
        }
        header = Header(
            started=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            model=type(self.model).__name__,
            parameters=sum(parameter.numel() for parameter in self._kept.parameters),
            optimizer=type(self.optimizer).__name__,
            lr=float(lr) if lr is not None else None,
            every=str(self.schedule.every),
            budget=self.schedule.budget,
            series=series,
            resumed=self._resumed,
        )
        self._tell("start", header)
        return self

    def step(self, loss: Tensor | float | None = None) -> None:
        """Say that an optimiser step is over.

        Args:
            loss: The training loss of the step; kept as it is, so that nothing waits for the device.
        """
        with self._never_killing("the watcher"):
            if not self._hooks:
                self._say_once(
                    "outside", "step() is called outside of the watcher's `with` block: nothing is watched"
                )
                return
            began = time.perf_counter()
            self._step += 1
            if loss is not None:
                # Added up where it lies, so that nothing waits for the device.
                self._loss_sum = self._loss_sum + (
                    loss.detach().float().mean() if isinstance(loss, Tensor) else float(loss)
                )
                self._loss_count += 1
            due = self._due if self._stepped else self._upcoming(self._step)
            # A GradScaler leaves out the steps whose gradients overflowed, at first several in a row.
            self._idle = 0 if self._stepped else self._idle + 1
            if self._idle == IDLE:
                self._say_once(
                    "no step",
                    f"the optimiser took no step in the last {IDLE} calls of step(): only losses are kept",
                )
            if due:
                self._measure(due)
            self._kept.forget()
            self._due, self._stepped = [], False
            self._spent += time.perf_counter() - began

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        summary: dict[str, Any] = {
            "steps": self._step,
            "seconds": round(time.perf_counter() - self._started, 3),
            "overhead": round(self.overhead, 4),
            "quantities": self.schedule.said(),
            "ended": "finished" if kind is None else kind.__name__,
            "left_out": self._left_out,
        }
        for quantity in self.schedule.quantities:
            extra = getattr(quantity, "summary", None)
            summary |= extra() if extra is not None else {}
        self._tell("finish", summary)

    @property
    def overhead(self) -> float:
        """Share of the training's own time that watching has taken."""
        own = time.perf_counter() - self._started - self._spent
        return self._spent / own if own > 0 else 0.0

    # -- hooks -----------------------------------------------------------------------------------------------------

    def _before_step(self, _: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with self._never_killing("the watcher"):
            began = time.perf_counter()
            self._due = self._upcoming(self._step + 1)
            self._spent += time.perf_counter() - began
            if any(quantity.of_step for quantity in self._due) and not self._kept.skipped:
                if (after := after_closure(self._keep_gradients, args, kwargs)) is not None:
                    return after
                self._keep_gradients()
        return None

    def _keep_gradients(self) -> None:
        with self._never_killing("the watcher"):
            began = time.perf_counter()
            self._kept.keep()
            self._kept_seconds = time.perf_counter() - began
            self._spent += self._kept_seconds

    def _after_step(self, *_: Any) -> None:
        self._stepped = True

    def _upcoming(self, step: int) -> list[Quantity]:
        """What to measure at a step, decided before it, because some of it has to be kept from before."""
        training = time.perf_counter() - self._started - self._spent
        return self.schedule.due(step, training, max(0.0, self._spent - self.schedule.total))

    # -- measuring -------------------------------------------------------------------------------------------------

    def _measure(self, due: list[Quantity]) -> None:
        values: dict[str, float] = {}
        layers: dict[str, dict[str, float]] = {}
        found: list[Alert] = []
        asked: list[str] = []
        loss = self._mean_loss()
        state: State | None = None
        for quantity in due:
            if quantity.of_step and (self._kept.before is None or not self._stepped):
                continue
            began = time.perf_counter()
            with self._dropping(quantity):
                state = self._state(loss, quantity, state)
                with keeping_random_states() if quantity.of_probe else contextlib.nullcontext():
                    measured = quantity.measure(state)
                values |= measured.values
                layers |= measured.layers
                found += measured.alerts
                asked += quantity.kinds
                self._not_applicable.pop(quantity.key, None)
            self._wait()
            seconds = time.perf_counter() - began
            if quantity.of_step:  # the first of them pays for what was kept for all
                seconds, self._kept_seconds = seconds + self._kept_seconds, 0.0
            self.schedule.note(quantity, self._step, seconds)
        if not values:
            return
        self._loss_sum, self._loss_count = 0.0, 0
        record = Record(self._step, round(time.perf_counter() - self._started, 4), values, layers)
        self.records.append(record)
        del self.records[:-MAX_RECORDS]
        self._tell("record", record)
        for first in self._alerts.after(record, found, asked, self._kept.weights):
            alert = self._looked_at(first)
            if alert is None:
                continue
            self.alerts.append(alert)
            self._tell("alert", alert)
            if self.show and self._leads:
                message = f"step {alert.step:,}: {alert.message} {alert.remedy}".strip()
                with contextlib.suppress(Warning):  # also where a user turns warnings into errors
                    warnings.warn(message, TrainingWarning, stacklevel=4)

    def _looked_at(self, alert: Alert) -> Alert | None:
        """A run that rests is looked at by its curvature, where there is data for it: at a minimum nothing is said."""
        if alert.kind != "stuck" or self._bench is None:
            return alert
        with self._never_killing("looking for a saddle"), keeping_random_states():
            return at_rest(alert, self._bench)
        return alert

    def _state(self, loss: float | None, quantity: Quantity, known: State | None) -> State:
        """What quantities look at: made once a step, unless the parameters have changed since the probe was made."""
        kept = self._kept
        if quantity.of_probe and self._bench is not None and kept.changed:
            kept.find()
            self._bench = probe(self._data, self.model, self.optimizer, *self._probe_arguments)
            known = None
        if known is not None:
            return known
        whole = (self._step, loss, kept.names, kept.parameters, kept.gradient_norms, kept.before)
        return State(*whole, self.optimizer, self._bench)

    def _mean_loss(self) -> float | None:
        return float(self._loss_sum) / self._loss_count if self._loss_count else None

    def _wait(self) -> None:
        """Count what a device still works on to the quantity that asked for it."""
        device = self._kept.parameters[0].device if self._kept.parameters else None
        if device is not None and device.type == "cuda":
            torch.cuda.synchronize(device)

    # -- nothing here may kill the run -----------------------------------------------------------------------------

    @contextlib.contextmanager
    def _dropping(self, quantity: Quantity) -> Any:
        try:
            yield
        except NotApplicableError as error:
            # It may apply later: a learning rate that is warmed up begins at 0.
            tries = self._not_applicable[quantity.key] = self._not_applicable.get(quantity.key, 0) + 1
            if tries >= TRIES:
                self.schedule.drop(quantity)
                self._left_out[quantity.key] = _words(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, training goes on
            self.schedule.drop(quantity)
            self._left_out[quantity.key] = _words(error)
            self._say_once(quantity.key, f"{quantity.key} is no longer watched: {_words(error)}")

    @contextlib.contextmanager
    def _never_killing(self, what: str) -> Any:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - whatever it is, training goes on
            self._say_once(what, f"{what} failed and goes on without this step: {_words(error)}")

    def _tell(self, event: str, content: Any) -> None:
        for logger in list(self._loggers):
            try:
                getattr(logger, event)(content)
            except Exception as error:  # noqa: BLE001 - whatever it is, training goes on
                self._loggers.remove(logger)
                name = type(logger).__name__
                self._say_once(name, f"{name} takes no more records: {_words(error)}")

    def _say_once(self, key: str, message: str) -> None:
        if key in self._said:
            return
        self._said.add(key)
        if self._leads:
            with contextlib.suppress(Warning):  # also where a user turns warnings into errors
                warnings.warn(message, TrainingWarning, stacklevel=5)


def watch(model: nn.Module, optimizer: Optimizer, data: Any = None, **options: Any) -> Watch:
    """Watch a training run.

        with torchstone.watch(model, optimizer, (x_probe, y_probe), folder="runs/first") as watcher:
            for x, y in loader:
                loss = ...
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                watcher.step(loss)

    Gradients and updates are seen by hooks of the optimiser, as it sees them: accumulated, reduced over processes, unscaled
    by a `GradScaler`. Everything else is measured on a probe of data, in evaluation mode, leaving the model bit for bit as it
    was. Whatever fails while watching is said once, in words; training goes on.

    Args:
        model: The network; wrapped in DistributedDataParallel or compiled is fine.
        optimizer: Its optimiser.
        data: A `Specimen` (its data; the model is this one) or a batch (inputs, targets) to measure on; None watches only
            losses, gradients, updates and weights.
        options: `every` ("auto", or a number of steps), `budget` (share of the training time with "auto", default 0.1),
            `quantities` ("cheap", "all", names, instruments' ids), `objective` and `batch_size` (for a batch),
            `examples` (of the probe, default 128), `folder` (writes watch.jsonl there), `loggers`, `show` (alerts as
            warnings), `seed`, `resumed` (steps that the run had taken before: goes on counting, in the same log).

    Returns:
        A context manager; call its `step(loss)` after each optimiser step.

    Raises:
        SettingError: Wrong kinds of arguments.
        TorchstoneError: A probe that cannot be measured on.
    """
    return Watch(model, optimizer, data, **options)


def _unwrapped(model: nn.Module) -> nn.Module:
    """The user's own module inside DistributedDataParallel or a compiled one."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def _words(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
