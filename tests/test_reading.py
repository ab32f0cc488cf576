"""Readings as data: equality, levels, error bars."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from torchstone.reading import Cost, CostClass, Level, Meta, Need, Question, Reading, Uncertainty, Verdict

META = Meta("made_up", Question.FIT, "t", "a?", CostClass.INSTANT, (Need.TRAIN,), "unit", "s", version=3)
GOOD = Verdict(Level.GOOD, "r", "t", "s")


def test_a_reading_knows_its_instrument() -> None:
    one = Reading.of(META, value=2, verdict=GOOD, headline="h")
    assert (one.id, one.question, one.unit, one.source, one.version) == (
        "made_up",
        Question.FIT,
        "unit",
        "s",
        3,
    )
    assert type(one.value) is float
    assert Reading.of(META, value=2, verdict=GOOD, headline="h", unit="other").unit == "other"


def test_what_counts_as_measured() -> None:
    measured = {
        level: replace(Reading.of(META, value=1, verdict=Verdict(level), headline="h")).measured
        for level in Level
    }
    assert [level for level, yes in measured.items() if not yes] == [Level.NOT_APPLICABLE, Level.ERROR]
    assert not Reading.not_applicable(META, "why").measured
    assert not Reading.error(META, "what").measured


def test_comparing_two_runs_leaves_their_cost_out() -> None:
    first, second = (
        replace(Reading.of(META, value=math.nan, verdict=GOOD, headline="h"), cost=Cost(seconds=seconds))
        for seconds in (1.0, 2.0)
    )
    assert first != second
    assert first.without_cost() == second.without_cost()


@pytest.mark.parametrize(
    ("level", "severity"),
    [(Level.POOR, 0.8), (Level.ATTENTION, 0.4), (Level.GOOD, 0), (Level.INFORMATIVE, 0), (Level.ERROR, 0)],
)
def test_severity_follows_the_level_unless_said(level: Level, severity: float) -> None:
    assert Verdict(level).severity == severity
    assert Verdict(level, severity=0.55).severity == 0.55
    assert Verdict(level, severity=0.0).severity == 0


def test_the_normal_interval() -> None:
    bar = Uncertainty.from_standard_error(10.0, 2.0, "probes")
    assert (bar.low, bar.high) == pytest.approx((10 - 3.91993, 10 + 3.91993), abs=1e-5)
    assert (bar.covers, bar.confidence, bar.standard_error) == ("probes", 0.95, 2.0)


def test_bars_without_a_value_are_equal_to_themselves() -> None:
    nan = float("nan")
    assert Uncertainty.from_standard_error(1.0, nan, "examples") == Uncertainty.from_standard_error(
        1.0, -nan, "examples"
    )
    assert Uncertainty(0, 1, "seeds", "m", standard_error=nan) == Uncertainty(
        0, 1, "seeds", "m", standard_error=-nan
    )


def test_needs_complete_a_sentence() -> None:
    for need in Need:
        assert not f"needs {need}".endswith(".")
