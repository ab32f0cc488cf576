"""The conformance suite must be able to fail: instruments that break one rule each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch

from torchstone.instruments.settings import require_count
from torchstone.reading import CostClass, Level, Meta, Need, Question, Reading, Verdict
from torchstone.testing.conformance import check_batching, check_instrument, check_settings
from torchstone.testing.zoo import Case, zoo
from torchstone.workbench import Workbench

CASES = {case.name: case for case in zoo(hugging_face=False)}
META = Meta("made_up", Question.FIT, "t", "a?", CostClass.INSTANT, (Need.TRAIN,), "u", "s")


def reading(value: float | None, **changes: Any) -> Reading:
    verdict = Verdict(Level.INFORMATIVE, "r", "t", "s")
    return Reading.of(
        META, value=value, **{"verdict": verdict, "headline": "h", "explanation": "e", **changes}
    )


@dataclass(frozen=True)
class Honest:
    META: ClassVar[Meta] = META
    count: int = 3

    def __post_init__(self) -> None:
        require_count(self, "count", 1)

    def measure(self, bench: Workbench) -> Reading:
        return reading(float(bench.losses("train").mean()))


@dataclass(frozen=True)
class RandomNumber(Honest):
    def measure(self, bench: Workbench) -> Reading:
        return reading(float(torch.rand(())))


@dataclass(frozen=True)
class Raises(Honest):
    def measure(self, bench: Workbench) -> Reading:
        raise ValueError("no")


@dataclass(frozen=True)
class WithoutSource(Honest):
    def measure(self, bench: Workbench) -> Reading:
        return reading(1.0, verdict=Verdict(Level.GOOD))


@dataclass(frozen=True)
class FirstBatchOnly(Honest):
    def measure(self, bench: Workbench) -> Reading:
        return reading(float(len(next(iter(bench.specimen.batches("train")))[0])))


@dataclass(frozen=True)
class Unchecked:
    META: ClassVar[Meta] = META
    count: int = 3

    def measure(self, bench: Workbench) -> Reading:
        return reading(1.0)


@dataclass(frozen=True)
class Unwritable(Honest):
    def measure(self, bench: Workbench) -> Reading:
        return reading(1.0, headline=" ")


def test_an_honest_instrument_passes() -> None:
    assert check_instrument(Honest, CASES["batch_norm_in_train_mode"]) is not None
    check_batching(Honest, CASES["float64"])
    check_settings(Honest)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Raises, "no"),
        (WithoutSource, "threshold"),
        (Unwritable, "no headline"),
        (RandomNumber, "another reading"),
    ],
)
def test_broken_rules_are_found(kind: type, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_instrument(kind, CASES["float64"])


def test_dependence_on_the_batch_size_is_found() -> None:
    with pytest.raises(AssertionError, match="made_up"):
        check_batching(FirstBatchOnly, CASES["float64"])


def test_unchecked_settings_are_found() -> None:
    with pytest.raises(AssertionError, match="no error"):
        check_settings(Unchecked)


def test_a_changed_model_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class Leaves(Honest):
        def measure(self, bench: Workbench) -> Reading:
            return reading(1.0)

    from contextlib import nullcontext

    from torchstone.specimen.specimen import Specimen

    def measuring(self: Specimen) -> Any:
        self.model.eval()
        return nullcontext()

    monkeypatch.setattr(Specimen, "measuring", measuring)
    with pytest.raises(AssertionError, match="was changed"):
        check_instrument(Leaves, CASES["batch_norm_in_train_mode"])


@pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case.name)
def test_cases_are_the_same_for_the_same_seed(case: Case) -> None:
    first, second, other = case.specimen(0), case.specimen(0), case.specimen(1)
    for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)
    parameters = list(first.model.parameters())
    if parameters and case.scale > 0:
        assert not torch.equal(parameters[0], next(other.model.parameters()))
