"""Logs of runs, made up so that every number is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from torchstone.watching.log import WatchLog
from torchstone.watching.loggers import JsonLines
from torchstone.watching.record import Alert, Header, Record, Series

SERIES = {
    "loss": Series("Training loss", "loss", "mean over the steps since the last record"),
    "test_loss": Series("Held-out loss", "loss", "the probe's test examples"),
    "gradient_norm": Series("Gradient norm", "loss / weight", "as the optimiser saw it", log=True),
    "stability_edge": Series("Stability edge", "share of the stability limit", "Cohen et al. 2021"),
}
NASTY = '</script><img src=x onerror="alert(1)">'


def made_up(steps: int = 40, layers: int = 3, *, name: str = "block", ended: bool = True) -> WatchLog:
    """Loss falling as 1/step; the gradient of layer k is 10**-k / step; the last loss is NaN; a spike at step 7."""
    records = []
    for step in range(1, steps + 1):
        loss = math.nan if step == steps else 100.0 if step == 7 else 1 / step
        values = {"loss": loss, "gradient_norm": 1 / step}
        if step % 10 == 0:
            values |= {"test_loss": 2 / step, "stability_edge": step / 20}
        by_layer = {f"{name}.{k}": 10.0**-k / step if k < layers - 1 else 0.0 for k in range(layers)}
        records.append(Record(step, step / 10, values, {"gradient_norm": by_layer}))
    alerts = [
        Alert(5, "large steps", "attention", "block.0", "A step changes block.0 by 20%.", "Warm up."),
        *(Alert(9 + k, "vanishing", "poor", f"{name}.{k}", f"{name}.{k} hardly moves.", "Normalise.") for k in (1, 2)),
        Alert(steps, "diverging", "poor", "", f"The loss is nan at step {steps}.", "Go back."),
    ]  # fmt: skip
    summary = {
        "steps": steps, "seconds": steps / 10, "overhead": 0.08, "ended": "finished",
        "quantities": {"loss": {"times": steps, "seconds": 0.01}, "stability_edge": {"times": 0, "seconds": 0.0}},
    }  # fmt: skip
    header = Header("2026-01-02T03:04:05+00:00", "Net", 1234, "SGD", 0.1, "auto", 0.1, SERIES)
    return WatchLog(header, records, alerts, summary if ended else None)


def written(log: WatchLog, folder: Path) -> Path:
    """The log on disk."""
    logger = JsonLines(folder)
    logger.start(log.header)
    for record in log.records:
        logger.record(record)
    for alert in log.alerts:
        logger.alert(alert)
    if log.summary is not None:
        logger.finish(log.summary)
    return logger.path


@pytest.fixture(name="make_log")
def _make_log() -> Callable[..., WatchLog]:
    return made_up


@pytest.fixture(name="write_log")
def _write_log() -> Callable[[WatchLog, Path], Path]:
    return written


@pytest.fixture(name="nasty")
def _nasty() -> str:
    return NASTY
