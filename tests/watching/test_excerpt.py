"""Judging from an excerpt says what judging from all records says, and costs the same however long the run is."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

import pytest

from torchstone.watching.alerts import Alerts, diverging, stuck
from torchstone.watching.excerpt import LENGTH, Excerpt
from torchstone.watching.record import Record


def flat_or_wild(kind: str, rng: random.Random, count: int = 400) -> Iterator[Record]:
    for step in range(1, count + 1):
        loss = {"flat": 2.3, "rises": 0.01 * step, "falls": 5 / step, "wild": rng.lognormvariate(0, 2)}[kind]
        gradient = 100.0 if step == 70 and kind == "flat" else 1e-3 if step > 20 else 1.0
        values = {"lr": 0.1}
        if rng.random() < 0.9:
            values["loss"] = math.nan if kind == "wild" and rng.random() < 0.02 else loss
        if rng.random() < 0.5:
            values["gradient_norm"] = gradient
        yield Record(step, 0.0, values)


@pytest.mark.parametrize("kind", ["flat", "rises", "falls", "wild"])
def test_verdicts_are_those_of_all_records(kind: str) -> None:
    records, losses, progress = [], Excerpt(("loss",)), Excerpt(("loss", "gradient_norm"))
    said = 0
    for record in flat_or_wild(kind, random.Random(3)):
        records.append(record)
        losses.add(record)
        progress.add(record)
        assert diverging(losses.first + list(losses.last)) == diverging(records)
        assert stuck(progress.records) == stuck(records)
        said += len(stuck(records)) + len(diverging(records))
    assert (said > 0) == (kind != "falls")


def test_no_more_is_kept_however_long_the_run_is() -> None:
    excerpt = Excerpt(("loss",))
    for step in range(5 * LENGTH):
        excerpt.add(Record(step, 0.0, {"loss": 1000.0 if step == 2 * LENGTH else 1.0}))
        excerpt.add(Record(step, 0.0, {"other": 1.0}))
    assert len(excerpt.records) == 2 * LENGTH + 1
    assert excerpt.largest is not None
    assert excerpt.largest.step == 2 * LENGTH


def test_alerts_look_at_the_newest_record_only() -> None:
    class Long(list[Record]):
        def __iter__(self) -> Iterator[Record]:
            raise AssertionError("walks over all records")

    alerts, records = Alerts(), Long()
    for step in range(100):
        records.append(Record(step, 0.0, {"loss": 1.0 if step < 50 else math.nan}))
        said = alerts.after(records, [], [])
        assert [alert.kind for alert in said] == (["diverging"] if step == 50 else [])
