"""An examination read from disk, whatever is in the file; and what it says of its readings."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchstone.details import (
    Axis,
    Bars,
    Curve,
    Histogram,
    Images,
    Line,
    Marker,
    Picture,
    Scalar,
    Scalars,
    Scatter,
    Spectrum,
    Surface,
    Table,
)
from torchstone.errors import FormatError
from torchstone.examination import SCHEMA, Environment, Examination, SpecimenCard
from torchstone.plan import Plan
from torchstone.reading import CostClass, Level, Meta, Question, Reading, Remedy, Uncertainty, Verdict

META = Meta("made_up", Question.MEMORY, "t", "a?", CostClass.INSTANT, (), "u", "s")


def reading(name: str, level: Level, question: Question = Question.MEMORY, severity: float = -1.0) -> Reading:
    verdict = Verdict(level, "r", "t", "s", severity)
    meta = replace(META, id=name, question=question)
    return Reading.of(
        meta, value=1.0, verdict=verdict, headline="h", uncertainty=Uncertainty(0.0, 2.0, "probes", "m")
    )


def examination(*readings: Reading) -> Examination:
    card = SpecimenCard("n", "M", "classification", 1, 1, 1, 2, None, (), "cpu", "float32")
    return Examination(
        specimen=card, plan=Plan.named("quick"), seed=0, started="2026-01-01T00:00:00+00:00", seconds=1.0, complete=True,
        command="c", environment=Environment("1", "2", "3", "l", "p", 1), findings=(),
        readings={one.id: one for one in readings},
    )  # fmt: skip


SAVED = examination(reading("a", Level.GOOD)).to_json()
X = Axis("x")
RICH = examination(
    replace(
        reading("a", Level.POOR),
        settings={"count": 3, "names": ("a", 1.5, None), "on": True, "none": None},
        remedies=(Remedy("do", "torch.nn.ReLU", "claim"),),
        details=(
            Scalars("t", (Scalar("s", 1.0, "u", 0.0, math.inf),), True),
            Curve(
                "t",
                X,
                Axis("y", log=True),
                (Line("l", (1.0, 2.0), (1.0, math.nan), (0.0, 0.0)),),
                (Marker("m", 1.0),),
            ),
            Histogram("t", X, (0.0, 1.0, 2.0), (Bars("b", (1.0, 2.0)),)),
            Spectrum("t", (2.0, 1.0), (0.1, 0.1)),
            Table("t", ("a", "b"), ((1, "x"), (None, 2.5))),
            Surface("t", X, X, X, (0.0, 1.0), (0.0,), ((1.0, 2.0),)),
            Scatter("t", X, X, (0.0,), (1.0,), ("g",), ("text",)),
            Images("t", (Picture("c", 1, 2, (0.0, 1.0)),)),
        ),
    )
).to_json()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must be JSON; got Expecting value at line 1"),
        ("not json", "must be JSON"),
        (SAVED[: len(SAVED) // 2], "must be JSON"),
        (SAVED + "}", "Extra data"),
        ("[" * 100_000, "must be JSON; got maximum recursion depth"),
        ('{"schema": ' + "9" * 5000 + "}", "must be JSON; got Exceeds the limit"),
        ("[]", "whole number under 'schema'; got None"),
        ("null", "whole number under 'schema'"),
        ('"text"', "whole number under 'schema'"),
        ("{}", "whole number under 'schema'"),
        ('{"schema": true}', "whole number under 'schema'; got True"),
        ('{"schema": 1.0}', "whole number under 'schema'; got 1.0"),
        ('{"schema": 1}', "a field 'specimen' at $"),
        (json.dumps({"schema": SCHEMA + 1}), f"up to schema {SCHEMA}; got schema {SCHEMA + 1}. Update torchstone"),
    ],
)  # fmt: skip
def test_files_that_are_no_examination(text: str, words: str) -> None:
    with pytest.raises(FormatError) as error:
        Examination.from_json(text)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"\x80abc"])
def test_files_that_are_no_text(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "e.json").write_bytes(content)
    with pytest.raises(FormatError, match="must be readable text"):
        Examination.load(tmp_path / "e.json")


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="must exist; got no file"):
        Examination.load(tmp_path / "e.json")
    with pytest.raises(FormatError, match="must be readable text"):
        Examination.load(tmp_path)


def places(data: Any) -> list[tuple[Any, Any]]:
    """Every container and key of nested JSON."""
    found = []
    pairs = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in pairs:
        found += [(data, key), *places(value)]
    return found


wrong = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.just([]), st.just({}),
    st.just({"type": "float", "value": "NaN"}), st.just({"type": "Curve"}), st.just([[1]]), st.just(10**400),
)  # fmt: skip


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_any_change_of_a_file_is_read_or_named(data: st.DataObject) -> None:
    """Whatever one value is replaced by, the file is read, or refused with one paragraph; nothing else is raised."""
    plain = json.loads(RICH)
    container, key = data.draw(st.sampled_from(places(plain)))
    if data.draw(st.booleans()):
        container[key] = data.draw(wrong)
    else:
        del container[key]
    try:
        text = json.dumps(plain)
    except ValueError:  # integers of more digits than Python writes
        return
    try:
        Examination.from_json(text)
    except FormatError as error:
        assert "\n" not in str(error)  # noqa: PT017 - being read is right too


def test_unknown_fields_of_a_newer_minor_version_are_passed_over() -> None:
    plain = json.loads(SAVED)
    plain["readings"]["a"]["colour"] = "blue"
    assert Examination.from_json(json.dumps(plain)) == Examination.from_json(SAVED)


def test_fields_with_defaults_may_be_missing() -> None:
    plain = json.loads(SAVED)
    del plain["readings"]["a"]["notes"]
    del plain["specimen"]["recipe"]
    assert Examination.from_json(json.dumps(plain)) == Examination.from_json(SAVED)


def test_readings_by_question_in_the_reports_order() -> None:
    one = examination(
        reading("z", Level.GOOD, Question.ROBUSTNESS), reading("y", Level.GOOD, Question.FIT),
        reading("x", Level.POOR, Question.ROBUSTNESS),
    )  # fmt: skip
    assert [(question, [r.id for r in found]) for question, found in one.by_question().items()] == [
        (Question.FIT, ["y"]),
        (Question.ROBUSTNESS, ["z", "x"]),
    ]
    assert [question.value for question in Question] == [
        "fit", "trainability", "generalization", "memory", "representation", "robustness",
    ]  # fmt: skip
    assert all(question.asks.endswith("?") for question in Question)


def test_what_to_change_first() -> None:
    one = examination(
        reading("fine", Level.GOOD), reading("some", Level.ATTENTION), reading("bad", Level.POOR),
        reading("worse", Level.POOR, severity=0.9), reading("told", Level.INFORMATIVE),
        reading("broken", Level.ERROR), reading("also", Level.ATTENTION),
    )  # fmt: skip
    assert [r.id for r in one.to_change()] == ["worse", "bad", "some", "also"]
