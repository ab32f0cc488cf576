"""One instrument's run: needs, failures, cost, and what may not come out of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from torchstone.errors import NotApplicableError, NumericalError
from torchstone.instruments.measurement import measure, settings_of
from torchstone.objectives import Classification, Objective
from torchstone.reading import CostClass, Level, Meta, Need, Question, Reading, Verdict
from torchstone.serialise import to_plain
from torchstone.specimen import Specimen
from torchstone.testing import model_state, same_state
from torchstone.workbench import Workbench

META = Meta("made_up", Question.FIT, "t", "a?", CostClass.INSTANT, (Need.TRAIN,), "u", "s")


def reading(**changes: Any) -> Reading:
    verdict = Verdict(Level.GOOD, "r", "t", "s")
    return Reading.of(META, **{"value": 1.0, "verdict": verdict, "headline": "h", **changes})


@dataclass(frozen=True)
class Returns:
    META: ClassVar[Meta] = META
    what: Any = None

    def measure(self, bench: Workbench) -> Any:
        return self.what


@dataclass(frozen=True)
class Raises(Returns):
    def measure(self, bench: Workbench) -> Any:
        raise self.what


def specimen(objective: Objective | None = None) -> Specimen:
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    return Specimen(nn.Linear(4, 2), objective or Classification(), (x, torch.arange(50) % 2), batch_size=16)


def bench(objective: Objective | None = None) -> Workbench:
    return Workbench.on(specimen(objective), "quick")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("no luck"), "ValueError: no luck"),
        (RuntimeError("two\nlines\n\tof it"), "RuntimeError: two lines of it"),
        (MemoryError(), "MemoryError:"),
        (RecursionError("deep"), "RecursionError: deep"),
        (AssertionError(), "AssertionError:"),
        (NumericalError("values must be finite", "NaN", "Look at them."), "values must be finite; got NaN. Look at them."),
    ],
)  # fmt: skip
def test_failures_become_readings(error: Exception, message: str) -> None:
    found = measure(Raises(error), bench())
    assert found.verdict.level is Level.ERROR
    assert found.verdict.reason == message
    assert found.headline == f"Not measured: {message}"
    assert not found.measured


def test_long_messages_are_cut() -> None:
    found = measure(Raises(ValueError("x" * 10_000)), bench())
    assert len(found.verdict.reason) == 500
    assert found.verdict.reason.endswith("…")


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_what_must_stop_everything_passes(stop: type[BaseException]) -> None:
    one = bench()
    before = model_state(one.specimen.model)
    with pytest.raises(stop):
        measure(Raises(stop()), one)
    assert same_state(before, model_state(one.specimen.model))


def test_no_meaning_is_no_failure() -> None:
    found = measure(Raises(NotApplicableError("no layers")), bench())
    assert (found.verdict.level, found.verdict.reason) == (Level.NOT_APPLICABLE, "no layers")
    assert found.headline == "Not applicable: no layers"
    assert found.value is None


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (None, "measure() must return a Reading; got NoneType"),
        (1.0, "got float"),
        (replace(reading(), id="other"), "must have the id 'made_up'; got 'other'"),
        (replace(reading(), settings={"a": {1, 2}}), "cannot write set as JSON"),  # pyright: ignore[reportArgumentType]
        (reading(notes=(torch.ones(1),)), "cannot write Tensor as JSON"),
    ],
)
def test_what_is_no_reading_or_cannot_be_written_is_found_at_once(what: Any, words: str) -> None:
    """Otherwise the journal or the report would fail, with all other readings."""
    found = measure(Returns(what), bench())
    assert found.verdict.level is Level.ERROR
    assert words in found.verdict.reason
    to_plain(found)


class Moody(Classification):
    """Works until it is told to fail."""

    broken = False

    def labels(self, batch: Any) -> Tensor | None:
        if self.broken:
            raise OSError("label server down")
        return super().labels(batch)


def test_a_need_that_cannot_be_looked_up_is_a_failure_of_this_reading_alone() -> None:
    @dataclass(frozen=True)
    class NeedsLabels(Returns):
        META: ClassVar[Meta] = replace(META, needs=(Need.LABELS,))

    objective = Moody()
    one = bench(objective)
    objective.broken = True
    found = measure(NeedsLabels(reading()), one)
    assert found.verdict.reason == "OSError: label server down"


def test_passes_and_time_are_counted() -> None:
    @dataclass(frozen=True)
    class Works(Returns):
        def measure(self, bench: Workbench) -> Any:
            bench.gradient()
            bench.losses("train")
            return self.what

    one = bench()
    found = measure(Works(reading()), one)
    assert (found.cost.forward_passes, found.cost.backward_passes) == (2, 1)
    assert found.cost.seconds > 0
    again = measure(Works(reading()), one)
    assert (again.cost.forward_passes, again.cost.backward_passes) == (0, 0)  # memoised


def test_settings_seed_and_sampling_are_added() -> None:
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    whole = Specimen(nn.Linear(4, 2), Classification(), (x, torch.arange(50) % 2))
    one = Workbench(whole.prepared(examples={"train": 20}), bench().plan, seed=7)
    found = measure(Returns(reading(notes=("own",))), one)
    assert found.seed == 7
    assert found.notes == ("own", "20 of 50 train examples, drawn with the seed")
    assert list(found.settings) == ["what"]


def test_settings_are_plain() -> None:
    @dataclass(frozen=True)
    class Many:
        META: ClassVar[Meta] = META
        count: int = 3
        rate: float = float("nan")
        names: tuple[str, ...] = ("a",)
        level: Level = Level.GOOD
        nothing: None = None
        nested: Any = ((1, 2.5), [True])
        other: Any = complex(1, 2)

        def measure(self, bench: Workbench) -> Reading:
            return reading()

    found = settings_of(Many())
    assert found["nested"] == ((1, 2.5), (True,))
    assert (found["level"], found["other"], found["names"]) == ("good", "(1+2j)", ("a",))
    assert found == settings_of(Many())
    to_plain(found)
