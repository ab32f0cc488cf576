"""Readings and examinations through JSON and back."""

from __future__ import annotations

import functools
import json
import math
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchstone.details import (
    Axis,
    Bars,
    Curve,
    Histogram,
    Line,
    Marker,
    Picture,
    Scalar,
    Scalars,
    Surface,
    Table,
    thin,
)
from torchstone.errors import FormatError, SettingError
from torchstone.examination import Environment, Examination, SpecimenCard, schema_text
from torchstone.plan import Plan, parse_bytes
from torchstone.reading import (
    CostClass,
    Level,
    Meta,
    Need,
    Question,
    Reading,
    Remedy,
    Uncertainty,
    Verdict,
    plain_settings,
)
from torchstone.serialise import from_plain, to_plain

SCHEMA = Path(__file__).parents[1] / "docs" / "schema" / "examination-1.json"
META = Meta("made_up", Question.FIT, "t", "a?", CostClass.INSTANT, (Need.TRAIN,), "u", "s")

numbers = st.floats(allow_nan=True, allow_infinity=True)
texts = st.text(max_size=20)
cells = st.one_of(texts, st.integers(-(2**60), 2**60), numbers, st.booleans(), st.none())


@st.composite
def details(draw: st.DrawFn) -> Any:
    kind = draw(st.sampled_from(["scalars", "curve", "table", "histogram", "surface"]))
    title = draw(texts)
    if kind == "scalars":
        items = draw(
            st.lists(
                st.builds(Scalar, texts, numbers, texts, st.none() | numbers, st.none() | numbers), max_size=3
            )
        )
        return Scalars(title, tuple(items), draw(st.booleans()))
    if kind == "curve":
        values = draw(st.lists(numbers, max_size=5))
        line = Line(draw(texts), tuple(range(len(values))), tuple(values))
        return Curve(title, Axis("x"), Axis("y", log=True), (line,), (Marker("m", draw(numbers)),))
    if kind == "table":
        width = draw(st.integers(1, 3))
        rows = draw(st.lists(st.tuples(*[cells] * width), max_size=4))
        return Table(title, tuple(f"c{i}" for i in range(width)), tuple(rows))
    if kind == "histogram":
        counts = draw(st.lists(numbers, min_size=1, max_size=4))
        return Histogram(title, Axis("x"), tuple(range(len(counts) + 1)), (Bars("b", tuple(counts)),))
    return Surface(
        title,
        Axis("x"),
        Axis("y"),
        Axis("z"),
        (0.0, 1.0),
        (0.0,),
        (tuple(draw(st.tuples(numbers, numbers))),),
    )


@st.composite
def readings(draw: st.DrawFn) -> Reading:
    value = draw(st.none() | numbers)
    bar = draw(st.none() | st.builds(Uncertainty, numbers, numbers, texts, texts))
    setting = st.one_of(texts, st.integers(-100, 100), numbers, st.booleans(), st.none())
    chosen = draw(st.dictionaries(texts, st.one_of(setting, st.lists(setting, max_size=3)), max_size=3))
    reading = Reading.of(
        META,
        value=value,
        verdict=Verdict(draw(st.sampled_from(list(Level))), draw(texts), draw(texts)),
        headline=draw(texts),
        uncertainty=bar,
        remedies=(Remedy(draw(texts)),),
        details=tuple(draw(st.lists(details(), max_size=3))),
        notes=tuple(draw(st.lists(texts, max_size=2))),
    )
    from dataclasses import replace

    return replace(reading, settings=plain_settings(chosen))


def examination(reading: Reading) -> Examination:
    card = SpecimenCard(
        "<n>", "M", "classification", 1, 1, 1, 2, None, ("NaN", "</script>"), "cpu", "float32", {"lr": 0.1}
    )
    environment = Environment("1", "2", "3", "l", "cpu", 1)
    return Examination(
        card,
        Plan.named("quick"),
        0,
        "2026-01-01T00:00:00+00:00",
        1.5,
        True,
        "cmd",
        environment,
        ("f",),
        {"r": reading},
    )


@functools.cache
def published() -> jsonschema.Draft202012Validator:
    """The schema as it is published, checked and read once."""
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@given(reading=readings())
@settings(max_examples=80, deadline=None)
def test_reading_back_gives_what_was_written(reading: Reading) -> None:
    original = examination(reading)
    text = original.to_json()
    assert Examination.from_json(text) == original
    assert Examination.from_json(text).to_json() == text
    text.encode("utf-8")
    published().validate(json.loads(text))


def test_the_published_schema_is_the_codes() -> None:
    assert SCHEMA.read_text() == schema_text()
    jsonschema.Draft202012Validator.check_schema(json.loads(schema_text()))


def test_the_schema_refuses_what_the_reader_refuses() -> None:
    data = json.loads(examination(Reading.not_applicable(META, "no")).to_json())
    data["readings"]["r"]["verdict"]["level"] = "excellent"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, json.loads(schema_text()))
    with pytest.raises(FormatError, match=r"one of \['good'.*\$\.readings\.r\.verdict\.level"):
        Examination.from_json(json.dumps(data))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data.pop("plan"), "a field 'plan'"),
        (lambda data: data.update(seconds="long"), "a number at $.seconds"),
        (lambda data: data.update(seed=1.5), "int at $.seed"),
        (lambda data: data.update(readings=[]), "an object at $.readings"),
        (lambda data: data["readings"]["r"].update(details=[{"type": "Video"}]), "under 'type'"),
        (lambda data: data.update(schema=2), "Update torchstone"),
        (lambda data: data.update(schema="1"), "whole number under 'schema'"),
    ],
)
def test_damage_is_located(change: Any, words: str) -> None:
    data = json.loads(examination(Reading.not_applicable(META, "no")).to_json())
    change(data)
    with pytest.raises(FormatError) as error:
        Examination.from_json(json.dumps(data))
    assert words in str(error.value)


def test_text_nan_is_not_a_number() -> None:
    table = Table("t", ("a", "b"), (("NaN", math.nan), ("Infinity", -math.inf)))
    assert from_plain(Table, json.loads(json.dumps(to_plain(table), allow_nan=False))) == table


def test_details_refuse_what_cannot_be_drawn() -> None:
    with pytest.raises(SettingError, match="one length"):
        Line("l", (1.0, 2.0), (1.0,))
    with pytest.raises(SettingError, match=r"at most 2,?000"):
        Line("l", tuple(range(2001)), tuple(range(2001)))
    with pytest.raises(SettingError, match="one more edge"):
        Histogram("h", Axis("x"), (0.0, 1.0), (Bars("b", (1.0, 2.0)),))
    with pytest.raises(SettingError, match="2 columns"):
        Table("t", ("a", "b"), ((1,),))
    with pytest.raises(SettingError, match="rows"):
        Surface("s", Axis("x"), Axis("y"), Axis("z"), (0.0,), (0.0,), ())
    with pytest.raises(SettingError, match="values a pixel"):
        Picture("p", 2, 2, (0.0,))


@given(length=st.integers(0, 10_000), most=st.integers(2, 3000))
@settings(max_examples=60, deadline=None)
def test_thinning_keeps_the_ends(length: int, most: int) -> None:
    kept = thin(length, most)
    assert len(kept) <= max(most, 0) or length <= most
    assert kept == sorted(set(kept))
    if length:
        assert (kept[0], kept[-1]) == (0, length - 1)


def test_plans() -> None:
    assert (
        Plan.named("quick").most_expensive
        < Plan.named("standard").most_expensive
        < Plan.named("deep").most_expensive
    )
    assert Plan.named("deep", 2**25).memory_bytes == 2**25
    with pytest.raises(SettingError, match="quick, standard, deep; got 'fast'"):
        Plan.named("fast")
    with pytest.raises(SettingError, match="1 MiB"):
        Plan.named("quick", 10)
    with pytest.raises(SettingError, match="train_examples"):
        Plan("p", CostClass.INSTANT, 1, None)


@pytest.mark.parametrize(
    ("text", "size"), [("512MiB", 2**29), ("2 gb", 2 * 10**9), ("1.5KiB", 1536), ("100", 100), ("7B", 7)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "lots", "-1GB", "1 parsec", "nan", "1e400GB"])
def test_wrong_sizes(text: str) -> None:
    with pytest.raises(SettingError, match="number with a unit"):
        parse_bytes(text)
