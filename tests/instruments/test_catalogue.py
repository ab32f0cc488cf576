"""The folder is the catalogue; other packages add to it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar

import pytest

import torchstone.instruments
from torchstone.errors import SettingError
from torchstone.instruments import catalogue as module
from torchstone.instruments.catalogue import catalogue, make
from torchstone.instruments.settings import require_between, require_choice, require_count
from torchstone.reading import CostClass, Meta, Question, Reading
from torchstone.workbench import Workbench

FOLDER = Path(torchstone.instruments.__file__).parent


@dataclass(frozen=True)
class Foreign:
    META: ClassVar[Meta] = Meta("foreign", Question.FIT, "t", "a?", CostClass.INSTANT, (), "u", "s")

    def measure(self, bench: Workbench) -> Reading:
        raise NotImplementedError


NOT_AN_INSTRUMENT = 3


def test_every_file_of_a_question_is_an_instrument() -> None:
    files = {path.stem for question in Question for path in (FOLDER / question).glob("[!_]*.py")}
    assert set(catalogue()) == files
    for name, kind in catalogue().items():
        assert kind.META.id == name
        assert kind.__module__ == f"torchstone.instruments.{kind.META.question}.{name}"


def test_the_order_is_the_reports_and_cheap_ones_come_first() -> None:
    order = list(Question)
    ranks = [(order.index(kind.META.question), kind.META.cost, name) for name, kind in catalogue().items()]
    assert ranks == sorted(ranks)


def test_what_an_instrument_says_of_itself_is_complete() -> None:
    for kind in catalogue().values():
        meta = kind.META
        assert meta.title
        assert meta.asks.endswith("?")
        assert meta.source
        assert len(set(meta.needs)) == len(meta.needs)
        assert kind.__doc__
        assert "Source:" in kind.__doc__
        assert "Cost:" in kind.__doc__


def entry(name: str, value: str) -> EntryPoint:
    return EntryPoint(name, value, "torchstone.instruments")


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The catalogue with made-up entry points, and the real one back afterwards."""
    listed: list[EntryPoint] = []
    monkeypatch.setattr(module, "entry_points", lambda **_: listed)
    catalogue.cache_clear()
    yield listed
    catalogue.cache_clear()


def test_other_packages_add_instruments(points: list[EntryPoint], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EntryPoint, "load", lambda _: Foreign)
    points.append(entry("foreign", "other_package:Foreign"))
    assert catalogue()["foreign"] is Foreign
    assert isinstance(make("foreign"), Foreign)


@pytest.mark.parametrize(
    ("name", "found", "words"),
    [
        ("other", Foreign, "META of id 'other', used once; got 'foreign'"),
        ("margins", Foreign, "META of id 'margins'"),
        ("foreign", NOT_AN_INSTRUMENT, "got None"),
    ],
)
def test_wrong_entry_points_are_named(
    points: list[EntryPoint], monkeypatch: pytest.MonkeyPatch, name: str, found: Any, words: str
) -> None:
    monkeypatch.setattr(EntryPoint, "load", lambda _: found)
    points.append(entry(name, "other_package:Thing"))
    with pytest.raises(SettingError, match="entry point other_package:Thing") as error:
        catalogue()
    assert words in str(error.value)


def test_a_package_that_cannot_be_imported_is_named(points: list[EntryPoint]) -> None:
    points.append(entry("gone", "a_package_that_was_removed:Thing"))
    with pytest.raises(
        SettingError, match=r"a_package_that_was_removed:Thing must load.*ModuleNotFoundError"
    ):
        catalogue()


def test_unknown_names_are_told_what_is_near() -> None:
    with pytest.raises(SettingError, match="Did you mean margins"):
        make("margin")
    with pytest.raises(SettingError, match="Run `torchstone instruments`"):
        make("zzzzzz")


@dataclass(frozen=True)
class Settings:
    META: ClassVar[Meta] = Foreign.META
    share: Any = 0.5
    count: Any = 3
    how: Any = "a"

    def __post_init__(self) -> None:
        require_between(self, "share", 0.0, 1.0)
        require_count(self, "count", 1, 10)
        require_choice(self, "how", ("a", "b"))


@pytest.mark.parametrize("share", [0, 1, 0.0, 1.0, 0.25])
def test_values_in_range(share: Any) -> None:
    assert Settings(share=share, count=10, how="b").share == share


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("share", value) for value in (-0.1, 1.1, float("nan"), float("inf"), "0.5", None, True, [0.5])],
        *[("count", value) for value in (0, 11, 2.0, "3", None, True, float("nan"))],
        *[("how", value) for value in ("c", "", None, 1, ["a"])],
    ],
)
def test_values_out_of_range_are_named(name: str, value: Any) -> None:
    with pytest.raises(SettingError, match=rf"foreign\.{name} must be") as error:
        Settings(**{name: value})
    assert f"got {value!r}" in str(error.value)
