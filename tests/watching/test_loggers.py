"""Loggers to other trackers: what reaches them, what happens without their packages, and that failures cost no run."""

import builtins
import errno
import json
import math
import re
import sys
import types
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from torchstone.errors import SettingError
from torchstone.watching import TrainingWarning, watch
from torchstone.watching.log import WatchLog
from torchstone.watching.loggers import JsonLines, Logger, MLflow, TensorBoard, WeightsAndBiases
from torchstone.watching.loggers.extra import scalars
from torchstone.watching.record import Alert, Header, Record, Series

HEADER = Header("2026-01-02", "Net", 10, "SGD", 0.1, "1", 0.1, {"loss": Series("Training loss", "loss")})
RECORD = Record(
    3, 0.3, {"loss": 0.5, "odd name ü\n": math.inf}, {"gradient_norm": {"0.weight": 0.25, "a->b": 1.0}}
)
ALERT = Alert(3, "diverging", "poor", "", "The loss is inf.", "Go back.")
SUMMARY = {"steps": 3, "ended": "finished"}


def tell(logger: Logger, summary: Mapping[str, Any] = SUMMARY) -> None:
    logger.start(HEADER)
    logger.record(RECORD)
    logger.alert(ALERT)
    logger.finish(summary)


def run(*loggers: Logger, folder: Path | None = None, steps: int = 4) -> list[float]:
    """A short run; the losses prove that it went on to its end."""
    g = torch.Generator().manual_seed(0)
    model = nn.Linear(3, 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=g))
    x = torch.randn(8, 3, generator=g)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    losses = []
    with watch(model, optimizer, every=1, quantities="cheap", loggers=loggers, folder=folder) as watcher:
        for _ in range(steps):
            loss = model(x).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            watcher.step(loss)
            losses.append(float(loss.detach()))
    return losses


def test_tags_hold_nothing_that_a_tracker_refuses() -> None:
    found = scalars(RECORD.values, RECORD.layers)
    assert found["loss"] == 0.5
    assert found["gradient_norm/0.weight"] == 0.25
    assert found["odd name __"] == math.inf
    assert all(re.fullmatch(r"[\w\-./ ]+", name, re.ASCII) for name in found)
    assert scalars({"/": 1.0}, {}) == {"unnamed": 1.0}


def test_tensorboard_reads_back_what_was_written(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoard(tmp_path)
    assert isinstance(logger, Logger)
    tell(logger)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {
        "watch/loss",
        "watch/odd name __",
        "watch/gradient_norm/0.weight",
        "watch/gradient_norm/a-_b",
    }
    (scalar,) = events.Scalars("watch/loss")
    assert (scalar.step, scalar.value) == (3, 0.5)
    texts = [tag for tag in events.Tags()["tensors"] if "alerts" in tag]
    assert texts == ["watch/alerts/diverging/text_summary"]
    assert events.Tensors(texts[0])[0].tensor_proto.string_val == [b"The loss is inf. Go back."]


def test_tensorboard_without_layers_and_with_a_writer_of_the_users(tmp_path: Path) -> None:
    calls = []

    class Writer:
        def __getattr__(self, name: str) -> Any:
            return lambda *args: calls.append((name, *args))

    tell(TensorBoard(tmp_path, layers=False, writer=Writer()))
    assert ("add_scalar", "watch/loss", 0.5, 3) in calls
    assert not any("gradient_norm" in str(call) for call in calls if call[0] == "add_scalar")
    assert "close" not in [call[0] for call in calls]


def test_a_whole_run_reaches_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    losses = run(TensorBoard(tmp_path))
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [one.value for one in events.Scalars("watch/loss")] == pytest.approx(losses)


class FakeMlflow(types.ModuleType):
    """The part of MLflow's fluent interface that is used, with its rules."""

    def __init__(self, active: bool) -> None:
        super().__init__("mlflow")
        self.active, self.params, self.metrics, self.tags, self.ended = active, {}, [], {}, ""

    def active_run(self) -> object | None:
        return object() if self.active else None

    def start_run(self) -> None:
        assert not self.active
        self.active = True

    def log_params(self, params: dict[str, str]) -> None:
        assert all(len(value) <= 500 for value in params.values())
        self.params |= params

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        assert all(re.fullmatch(r"[\w\-./ ]+", name) for name in metrics)
        self.metrics.append((step, metrics))

    def set_tag(self, key: str, value: str) -> None:
        assert re.fullmatch(r"[\w\-./ ]+", key)
        assert len(value) <= 500
        self.tags[key] = value

    def end_run(self, status: str) -> None:
        self.ended = status


@pytest.mark.parametrize(("active", "ended", "status"), [
    (False, "finished", "FINISHED"), (False, "KeyboardInterrupt", "FAILED"), (True, "finished", ""),
])  # fmt: skip
def test_mlflow(monkeypatch: pytest.MonkeyPatch, active: bool, ended: str, status: str) -> None:
    fake = FakeMlflow(active)
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    tell(MLflow(), {"ended": ended})
    assert fake.params["watch.model"] == "Net"
    assert fake.metrics[0][0] == 3
    assert fake.metrics[0][1]["watch/gradient_norm/0.weight"] == 0.25
    assert fake.tags["watch.alert.001.diverging"].startswith("step 3: The loss is inf.")
    assert fake.tags["watch.ended"] == ended
    assert fake.ended == status  # a run of the user's is left open


class FakeRun:
    def __init__(self) -> None:
        self.logged, self.alerts, self.metrics, self.summary, self.code = [], [], [], {}, None

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        self.metrics.append((name, step_metric))

    def log(self, data: dict[str, float]) -> None:
        self.logged.append(data)

    def alert(self, title: str, text: str, level: str) -> None:
        assert level in ("INFO", "WARN", "ERROR")
        self.alerts.append((title, text, level))

    def finish(self, exit_code: int) -> None:
        self.code = exit_code


@pytest.mark.parametrize("own", [True, False])
def test_weights_and_biases(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own: bool) -> None:
    fake, made, settings = types.ModuleType("wandb"), FakeRun(), {}

    def init(**given: Any) -> FakeRun:
        settings.update(given)
        return made

    fake.init = init  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    tell(WeightsAndBiases(tmp_path, run=None if own else made))
    assert settings.get("mode") == ("offline" if own else None)  # nothing leaves the machine unasked
    assert made.logged[0]["watch/step"] == 3
    assert made.logged[0]["watch/gradient_norm/0.weight"] == 0.25
    assert ("watch/*", "watch/step") in made.metrics
    assert made.alerts == [("diverging at step 3", "The loss is inf. Go back.", "ERROR")]
    assert made.code == (0 if own else None)


@pytest.mark.parametrize(
    ("module", "maker", "extra"),
    [
        ("tensorboard", TensorBoard, "tensorboard"),
        ("mlflow", MLflow, "mlflow"),
        ("wandb", WeightsAndBiases, "wandb"),
    ],
)
def test_a_missing_package_is_said_with_its_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: str, maker: Any, extra: str
) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name.split(".")[0] == module:
            raise ImportError(f"No module named {name!r}")
        return real(name, *rest)

    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(
        SettingError, match=rf'needs the package {extra}; .*pip install "torchstone\[{extra}\]"'
    ):
        maker(tmp_path) if maker is not MLflow else maker()


class Failing:
    """Fails at one event, and counts the calls."""

    def __init__(self, event: str, error: Exception) -> None:
        self.calls: list[str] = []
        for name in ("start", "record", "alert", "finish"):
            setattr(self, name, self._event(name, error if name == event else None))

    def _event(self, name: str, error: Exception | None) -> Any:
        def call(_: Any) -> None:
            self.calls.append(name)
            if error is not None:
                raise error

        return call


@pytest.mark.parametrize("event", ["start", "record", "finish"])
def test_a_logger_that_raises_costs_no_run_and_no_other_logger(tmp_path: Path, event: str) -> None:
    bad: Any = Failing(event, RuntimeError("the server hangs"))
    with pytest.warns(TrainingWarning, match="Failing takes no more records: the server hangs") as said:
        losses = run(bad, folder=tmp_path)
    assert len(said) == 1
    assert bad.calls.count(event) == 1
    log = WatchLog.load(tmp_path)
    assert log.series("loss")[1] == pytest.approx(losses)
    assert log.summary is not None


def test_a_full_disk_keeps_what_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fills up while the third record is written: half a line lands, then the error."""
    from torchstone import writing

    lines = []
    real = writing.os.fsync

    def full(handle: int) -> None:
        lines.append(handle)
        if len(lines) == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(writing.os, "fsync", full)
    with pytest.warns(TrainingWarning, match="JsonLines takes no more records: .*No space left on device"):
        losses = run(JsonLines(tmp_path, safe_seconds=0.0), steps=6)
    assert len(losses) == 6
    log = WatchLog.load(tmp_path)
    assert log.series("loss")[1] == pytest.approx(losses[:2])
    assert log.summary is None
    assert log.damaged == 0


def test_records_do_not_wait_for_the_disk_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchstone import writing

    waited = []
    monkeypatch.setattr(writing.os, "fsync", waited.append)
    logger = JsonLines(tmp_path, safe_seconds=3600.0)
    logger.start(HEADER)
    for _ in range(50):
        logger.record(RECORD)
    assert len(waited) == 1
    assert len(WatchLog.load(tmp_path).records) == 50  # on their way to the disk, and readable at once
    logger.alert(ALERT)
    logger.finish(SUMMARY)
    assert len(waited) == 3


def test_a_summary_with_things_that_json_lacks_is_written(tmp_path: Path) -> None:
    logger = JsonLines(tmp_path)
    logger.start(HEADER)
    logger.finish({"where": tmp_path, "when": {1: torch.float32}})
    log = WatchLog.load(tmp_path)
    assert log.summary == {"where": str(tmp_path), "when": {"1": "torch.float32"}}


def test_a_summary_that_is_not_finite_is_written(tmp_path: Path) -> None:
    logger = JsonLines(tmp_path)
    logger.start(HEADER)
    logger.finish({"overhead": math.inf, "deep": {"worst": [math.nan, 1.0]}})
    line = (tmp_path / "watch.jsonl").read_text().splitlines()[-1]
    assert json.loads(line, parse_constant=pytest.fail) == {
        "summary": {"overhead": None, "deep": {"worst": [None, 1.0]}}
    }


def test_layers_with_names_that_break_files(tmp_path: Path) -> None:
    """Names of modules are any text: line ends, quotes, half a surrogate pair."""
    logger = JsonLines(tmp_path)
    logger.start(HEADER)
    name = 'a\nb"c\u2028\ud800'
    logger.record(Record(1, 0.1, {"loss": 1.0}, {"gradient_norm": {name: 1.0}}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log = WatchLog.load(tmp_path)
    assert list(log.layers("gradient_norm")) == [name]
