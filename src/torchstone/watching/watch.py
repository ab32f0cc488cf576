"""Watch a network while it trains: what goes wrong is said when it goes wrong, within a share of the training time."""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
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
from torchstone.watching.mean_loss import MeanLoss
from torchstone.watching.probe import EXAMPLES, probe
from torchstone.watching.quantities import Quantity, chosen_quantities
from torchstone.watching.record import Alert, Header, Record
from torchstone.watching.rest import at_rest
from torchstone.watching.schedule import Every, Schedule
from torchstone.watching.state import State
from torchstone.watching.telling import Telling, in_words
from torchstone.watching.thinning import Thinning
from torchstone.workbench import Workbench

MAX_RECORDS = 10_000
IDLE = 10
TRIES = 3


class Watch:
    """A watcher of one training run; see `torchstone.watch`.

    Attributes:
        records: What was measured so far, the newest last (the last 10,000).
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
        self.model, self.optimizer = _unwrapped(model), optimizer
        self.records: list[Record] = []
        self.alerts: list[Alert] = []
        self._kept = Kept(self.model, optimizer)
        self._probe_arguments = (objective, batch_size, examples, seed)
        self._data = data
        self._bench = probe(data, self.model, optimizer, *self._probe_arguments)
        self._probed = self._kept.parameters
        chosen = chosen_quantities(quantities, self.model, probed=self._bench is not None)
        self.schedule = Schedule(chosen, every, budget, resumed)
        self._alerts = Alerts()
        self._not_applicable: dict[str, int] = {}
        self._left_out: dict[str, str] = {}
        self._telling = Telling(loggers, folder, show)
        self._thinning = Thinning()
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
        self._loss = MeanLoss()
        self._started = self._spent = self._kept_seconds = 0.0

    # -- the training loop calls these -----------------------------------------------------------------------------

    def __enter__(self) -> Self:
        if self._started:  # entered anew: it goes on where it was left
            self._resumed, self._spent = self._step, 0.0
            self.schedule = replace(self.schedule, resumed=self._step)
        self._started = time.perf_counter()
        self._hooks = [
            self.optimizer.register_step_pre_hook(self._before_step),
            self.optimizer.register_step_post_hook(self._after_step),
        ]
        if not self._kept.parameters:
            self._telling.say_once(
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
        self._telling.tell("start", header)
        return self

    def step(self, loss: Tensor | float | None = None) -> None:
        """Say that an optimiser step is over.

        Args:
            loss: The training loss of the step; kept as it is, so that nothing waits for the device.
        """
        with self._telling.never_killing("the watcher"):
            if not self._hooks:
                self._telling.say_once(
                    "outside", "step() is called outside of the watcher's `with` block: nothing is watched"
                )
                return
            began = time.perf_counter()
            self._step += 1
            if loss is not None and (wrong := self._loss.add(loss)) is not None:
                self._telling.say_once("loss", wrong)
            due = self._due if self._stepped else self._upcoming(self._step)
            # A GradScaler leaves out the steps whose gradients overflowed, at first several in a row.
            self._idle = 0 if self._stepped else self._idle + 1
            if self._idle == IDLE:
                self._telling.say_once(
                    "no step",
                    f"the optimiser took no step in the last {IDLE} calls of step(): only losses are kept. "
                    "Call it once after each step of the optimiser.",
                )
            try:
                if due:
                    self._measure(due)
            finally:
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
        with self._telling.never_killing("the summary"):
            for quantity in self.schedule.quantities:
                extra = getattr(quantity, "summary", None)
                summary |= extra() if extra is not None else {}
        self._telling.tell("finish", summary)

    @property
    def overhead(self) -> float:
        """Share of the training's own time that watching has taken."""
        own = time.perf_counter() - self._started - self._spent
        return self._spent / own if own > 0 else 0.0

    # -- hooks -----------------------------------------------------------------------------------------------------

    def _before_step(self, _: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with self._telling.never_killing("the watcher"):
            began = time.perf_counter()
            self._due = self._upcoming(self._step + 1)
            self._spent += time.perf_counter() - began
            if any(quantity.of_step for quantity in self._due) and not self._kept.skipped:
                if (after := after_closure(self._keep_gradients, args, kwargs)) is not None:
                    return after
                self._keep_gradients()
        return None

    def _keep_gradients(self) -> None:
        with self._telling.never_killing("the watcher"):
            began = time.perf_counter()
            if not self._kept.keep():
                self._telling.say_once(
                    "no gradient",
                    "the optimiser takes a step without any gradient: was backward() called before it?",
                )
            self._kept_seconds = time.perf_counter() - began
            self._spent += self._kept_seconds

    def _after_step(self, *_: Any) -> None:
        self._stepped = True

    # A compiled step leaves both outside of its graph; `torch.compiler.disable` says the same, but loads the compiler.
    for _hook in (_before_step, _after_step):
        _hook._torchdynamo_disable = True  # pyright: ignore[reportFunctionMemberAccess]

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
        state = self._state(due)
        for quantity in due:
            if quantity.of_step and state.before is None:
                continue
            if quantity.of_probe and (state.bench is None or not state.is_finite):
                continue  # said by an alert, and a run may get over it
            began = time.perf_counter()
            with self._dropping(quantity):
                with keeping_random_states() if quantity.of_probe else contextlib.nullcontext():
                    measured = quantity.measure(state).checked()
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
        self._loss = MeanLoss()
        record = Record(self._step, round(time.perf_counter() - self._started, 4), values, layers)
        kept = record if self._thinning.keeps_layers() else replace(record, layers={})
        self.records.append(kept)
        del self.records[:-MAX_RECORDS]
        self._telling.tell("record", kept)
        new = self._alerts.after(record, found, asked, self._kept.weights)
        alerts = [alert for first in new if (alert := self._looked_at(first)) is not None]
        self.alerts += alerts
        self._telling.tell_alerts(alerts)

    def _looked_at(self, alert: Alert) -> Alert | None:
        """A run that rests is looked at by its curvature, where there is data for it: at a minimum nothing is said."""
        if alert.kind != "stuck" or self._bench is None:
            return alert
        with self._telling.never_killing("looking for a saddle"), keeping_random_states():
            return at_rest(alert, self._bench)
        return alert

    def _state(self, due: list[Quantity]) -> State:
        """What quantities look at; the probe is made anew where the parameters are others than it was made with."""
        kept = self._kept
        if self._data is not None and any(quantity.of_probe for quantity in due):
            if kept.changed:  # since the step: what was kept of it is of other parameters
                kept.find()
                kept.forget()
            if self._probed is not kept.parameters:
                self._bench, self._probed = self._new_probe(), kept.parameters
        before = kept.before if self._stepped else None
        whole = (self._step, self._loss.value(), kept.names, kept.parameters, kept.gradient_norms, before)
        shared = sum(quantity.of_step for quantity in due) > 1
        return State(*whole, self.optimizer, self._bench, shared)

    def _new_probe(self) -> Workbench | None:
        try:
            return probe(self._data, self.model, self.optimizer, *self._probe_arguments)
        except Exception as error:  # noqa: BLE001 - whatever it is, training goes on
            self._telling.say_once(
                "probe",
                f"nothing is measured on the probe until the parameters change again: {in_words(error)}",
            )
            return None

    def _wait(self) -> None:
        """Count what a device still works on to the quantity that asked for it."""
        device = self._kept.parameters[0].device if self._kept.parameters else None
        if device is not None and device.type == "cuda":
            torch.cuda.synchronize(device)

    # -- nothing here may kill the run -----------------------------------------------------------------------------

    @contextlib.contextmanager
    def _dropping(self, quantity: Quantity) -> Iterator[None]:
        try:
            yield
        except NotApplicableError as error:
            # It may apply later: a learning rate that is warmed up begins at 0.
            tries = self._not_applicable[quantity.key] = self._not_applicable.get(quantity.key, 0) + 1
            if tries >= TRIES:
                self.schedule.drop(quantity)
                self._left_out[quantity.key] = in_words(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, training goes on
            self.schedule.drop(quantity)
            self._left_out[quantity.key] = in_words(error)
            self._telling.say_once(quantity.key, f"{quantity.key} is no longer watched: {in_words(error)}")


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
