"""Running, journalling, resuming and failing."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import jsonschema
import pytest
import torch
from torch import nn

from torchstone.errors import OutputError, SettingError, SpecimenError
from torchstone.examination import Examination
from torchstone.examining import examine
from torchstone.instruments.catalogue import catalogue, make
from torchstone.instruments.measurement import measure
from torchstone.journal import FILE_NAME, Journal
from torchstone.objectives import Classification
from torchstone.plan import Plan
from torchstone.progress import Progress, _clock, remaining_seconds
from torchstone.reading import CostClass, Level, Meta, Question, Reading, Verdict
from torchstone.recipe import Recipe
from torchstone.specimen import Specimen
from torchstone.testing import model_state, same_state
from torchstone.workbench import Workbench
from torchstone.workbench.memory import Memory
from torchstone.writing import append_line, make_folder, write_atomically


def specimen(seed: int = 0, count: int = 60) -> Specimen:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 4, generator=generator)
    y = (x[:, 0] > 0).long()
    model = nn.Linear(4, 2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return Specimen(model, Classification(), (x[:40], y[:40]), (x[40:], y[40:]))


CALLS: list[str] = []


@dataclass(frozen=True)
class Probe:
    """Counts its calls, and fails as told."""

    META: ClassVar[Meta] = Meta("probe", Question.FIT, "Probe", "a?", CostClass.INSTANT, (), "u", "s")
    fails: str = ""

    def measure(self, bench: Workbench) -> Reading:
        CALLS.append(self.META.id)
        if self.fails == "interrupt":
            raise KeyboardInterrupt
        if self.fails:
            raise RuntimeError(self.fails)
        return Reading.of(self.META, value=1.0, verdict=Verdict(Level.GOOD, "r", "t", "s"), headline="h")


@dataclass(frozen=True)
class Second(Probe):
    META: ClassVar[Meta] = replace(Probe.META, id="second")


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    CALLS.clear()


def test_a_failing_instrument_is_a_reading_and_the_others_go_on() -> None:
    one = specimen()
    before = model_state(one.model)
    examination = examine(one, only=[Probe(fails="no luck"), Second()])
    assert examination.readings["probe"].verdict.level is Level.ERROR
    assert examination.readings["probe"].headline == "Not measured: RuntimeError: no luck"
    assert examination.readings["second"].value == 1
    assert examination.complete
    assert same_state(before, model_state(one.model))


def test_a_finished_reading_is_not_measured_again(tmp_path: Path) -> None:
    examine(specimen(), only=[Probe()], output=tmp_path)
    second = examine(specimen(), only=[Probe(), Second()], output=tmp_path)
    assert CALLS == ["probe", "second"]
    assert list(second.readings) == ["probe", "second"]
    assert Examination.load(tmp_path / "examination.json") == second
    examine(specimen(), only=[Probe(), Second()], output=tmp_path, fresh=True)
    assert CALLS == ["probe", "second", "probe", "second"]


def test_errors_and_other_settings_are_measured_again(tmp_path: Path) -> None:
    examine(specimen(), only=[Probe(fails="x")], output=tmp_path)
    again = examine(specimen(), only=[Probe(fails="x")], output=tmp_path)
    assert len(CALLS) == 2
    assert again.readings["probe"].verdict.level is Level.ERROR
    examine(specimen(), only=[Probe()], output=tmp_path)
    assert len(CALLS) == 3


@pytest.mark.parametrize("other", [{"seed": 1}, {"plan": "quick"}, {"specimen": specimen(1)}])
def test_another_examination_in_the_folder_is_refused(tmp_path: Path, other: dict[str, Any]) -> None:
    examine(specimen(), only=[Probe()], output=tmp_path)
    before = (tmp_path / FILE_NAME).read_bytes()
    arguments = {"specimen": specimen(), "plan": "standard", "seed": 0, **other}
    with pytest.raises(OutputError, match="--fresh"):
        examine(only=[Probe()], output=tmp_path, **arguments)
    assert (tmp_path / FILE_NAME).read_bytes() == before


def test_an_interruption_writes_what_is_finished_and_resumes(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        examine(specimen(), only=[Probe(), Second(fails="interrupt")], output=tmp_path)
    partial = Examination.load(tmp_path / "examination.json")
    assert list(partial.readings) == ["probe"]
    assert not partial.complete
    assert (tmp_path / "report.html").exists()
    whole = examine(specimen(), only=[Probe(), Second()], output=tmp_path)
    assert CALLS == ["probe", "second", "second"]
    assert whole.complete


@pytest.mark.parametrize(
    "tail", ['{"reading": {"type": "Read', '{"reading": {}, "seconds": 1}\n', "\n\n", "[3]\n", "\xff\n"]
)
def test_a_torn_or_damaged_line_is_dropped(tmp_path: Path, tail: str) -> None:
    examine(specimen(), only=[Probe()], output=tmp_path)
    with (tmp_path / FILE_NAME).open("a", encoding="latin-1") as file:
        file.write(tail)
    examine(specimen(), only=[Probe(), Second()], output=tmp_path)
    assert CALLS == ["probe", "second"]
    lines = (tmp_path / FILE_NAME).read_text().splitlines()
    assert [json.loads(line).get("reading", {}).get("id") for line in lines] == [None, "probe", "second"]


def test_a_full_disk_while_journalling_keeps_whole_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examine(specimen(), only=[Probe()], output=tmp_path)
    before = (tmp_path / FILE_NAME).read_bytes()
    real, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 1:  # the journal's rewriting at the start still fits
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"No space left on device.*--output"):
        examine(specimen(), only=[Probe(), Second()], output=tmp_path)
    assert (tmp_path / FILE_NAME).read_bytes() == before
    assert not list(tmp_path.glob(".*.part"))
    monkeypatch.undo()
    examine(specimen(), only=[Probe(), Second()], output=tmp_path)
    assert CALLS == ["probe", "second", "second"]


def test_writing_replaces_whole_files_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    write_atomically(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        write_atomically(path, "new")
    with pytest.raises(OutputError, match="No space left"):
        append_line(path, "more")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_folders_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="must be writable"):
        make_folder(tmp_path / "file" / "below")
    with pytest.raises(OutputError, match="must be writable"):
        examine(specimen(), only=[Probe()], output="/proc/nowhere")
    assert CALLS == []


def test_the_journal_knows_its_seconds(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "f")
    journal.add(Reading.not_applicable(Probe.META, "no"), 12.5)
    assert Journal(tmp_path, "f").seconds == 12.5
    assert list(Journal(tmp_path, "f").readings) == ["probe"]


def test_a_refused_specimen_writes_nothing(tmp_path: Path) -> None:
    bad = Specimen(nn.Linear(3, 2), Classification(), (torch.randn(9, 4), torch.arange(9) % 2))
    with pytest.raises(SpecimenError):
        examine(bad, only=[Probe()], output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_plans_choose_by_cost_class_alone() -> None:
    everything = {name: kind.META.cost for name, kind in catalogue().items()}
    quick = examine(
        specimen(), "quick", skip=[name for name in everything if name not in ("margins", "linear_probe")]
    )
    assert list(quick.readings) == ["margins"]  # linear_probe costs minutes
    assert everything["linear_probe"] > Plan.named("quick").most_expensive


def test_the_same_seed_gives_the_same_examination() -> None:
    readings = [examine(specimen(), "quick", seed=3).readings for _ in range(2)]
    assert list(readings[0]) == list(readings[1])
    for name in readings[0]:
        assert readings[0][name].without_cost() == readings[1][name].without_cost(), name


def test_choices_are_checked() -> None:
    with pytest.raises(SettingError, match="Did you mean margins"):
        examine(specimen(), only=["margin"])
    with pytest.raises(SettingError, match="At least one instrument"):
        examine(specimen(), only=["margins"], skip=["margins"])
    with pytest.raises(SettingError, match=r"margins has the settings.*'nothing'"):
        examine(specimen(), only=["margins"], settings={"margins": {"nothing": 1}})
    with pytest.raises(SettingError, match="needs a Specimen; got Linear"):
        examine(nn.Linear(1, 1))  # pyright: ignore[reportArgumentType]
    assert make("margins", {"quantile": 0.2}) != make("margins")


def test_needs_that_are_not_met_cost_nothing() -> None:
    alone = Specimen(nn.Linear(4, 2), Classification(), (torch.randn(9, 4), torch.arange(9) % 2))
    reading = measure(make("generalization_gap"), Workbench.on(alone))
    assert reading.verdict.level is Level.NOT_APPLICABLE
    assert reading.verdict.reason == "needs test examples"
    assert (reading.cost.seconds, reading.cost.forward_passes) == (0, 0)


def test_shared_work_is_done_once_within_the_budget() -> None:
    made = []

    def make_rows(name: str) -> torch.Tensor:
        made.append(name)
        return torch.zeros(100)

    memory = Memory(budget=1000)
    for name in (
        "a",
        "b",
        "a",
        "c",
        "a",
        "b",
    ):  # two of 400 bytes fit; b is the least recently used when c comes
        memory.get(name, lambda name=name: make_rows(name))
    assert made == ["a", "b", "c", "b"]
    memory.get("huge", lambda: torch.zeros(10_000))
    assert "huge" not in memory
    assert memory.used <= memory.budget


def test_remaining_time() -> None:
    assert remaining_seconds([], []) == 0
    prior = remaining_seconds([], [CostClass.SECONDS, CostClass.MINUTES])
    slower = remaining_seconds([(CostClass.SECONDS, 20.0)], [CostClass.SECONDS, CostClass.MINUTES])
    assert slower > 3 * prior


def test_progress_is_silent_off_a_terminal_and_shown_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress() as quiet:
        quiet.step("a", [], [CostClass.SECONDS])
    assert capsys.readouterr() == ("", "")
    with Progress(show=True) as shown:
        shown.step("Hessian trace", [], [CostClass.SECONDS])
    assert "Hessian trace" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"plan": 3}, "plan must be a name or a Plan; got int"),
        ({"plan": None}, "plan must be a name or a Plan"),
        ({"plan": "thorough"}, "quick, standard, deep; got 'thorough'"),
        ({"seed": -1}, "seed must be a whole number from 0"),
        ({"seed": 1.0}, "seed must be a whole number"),
        ({"seed": "0"}, "seed must be a whole number"),
        ({"seed": 2**32}, "seed must be a whole number"),
        ({"only": [Probe]}, "instruments with their settings; got <class"),
        ({"only": [3]}, "instruments with their settings; got 3"),
        ({"only": [Probe(), Probe(fails="x")]}, "can run once; got probe twice"),
        ({"only": ["margins", "margins"]}, "can run once; got margins twice"),
        ({"only": []}, "At least one instrument must run"),
        ({"skip": ["nonsense"]}, "got 'nonsense'"),
        ({"only": [Probe()], "settings": {"nonsense": {}}}, "got 'nonsense'"),
        ({"only": [Probe()], "settings": {"margins": {"nothing": 1}}}, "margins has the settings"),
        ({"only": [Probe()], "settings": {"margins": {"quantile": -1}}}, "margins.quantile must be"),
    ],
)
def test_arguments_out_of_range_are_refused_before_anything_is_written(
    tmp_path: Path, arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(SettingError) as error:
        examine(specimen(), output=tmp_path / "out", **arguments)
    assert words in str(error.value)
    assert not (tmp_path / "out").exists()
    assert CALLS == []


def test_one_name_need_not_be_a_list() -> None:
    assert list(examine(specimen(), only="margins").readings) == ["margins"]  # pyright: ignore[reportArgumentType]


def test_settings_reach_their_instrument() -> None:
    found = examine(specimen(), only=["margins"], settings={"margins": {"quantile": 0.25}})
    assert found.readings["margins"].settings["quantile"] == 0.25


def test_a_changed_recipe_is_another_examination(tmp_path: Path) -> None:
    """Readings about the learning rate would be stale."""
    examine(specimen(), only=[Probe()], output=tmp_path)
    other = specimen()
    other.recipe = Recipe(lr=0.5)
    with pytest.raises(OutputError, match="recipe"):
        examine(other, only=[Probe()], output=tmp_path)


@pytest.mark.parametrize("name", ["examination.json", "report.html"])
def test_a_full_disk_at_the_very_end_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    real = Path.replace

    def full(self: Path, target: Path) -> Path:
        if target.name == name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OutputError, match=f"{name} must be writable; got No space left"):
        examine(specimen(), only=[Probe()], output=tmp_path)
    assert not (tmp_path / name).exists()
    assert not list(tmp_path.glob(".*"))
    monkeypatch.undo()
    assert examine(specimen(), only=[Probe()], output=tmp_path).complete
    assert CALLS == ["probe"]  # from the journal


def test_an_instrument_whose_reading_cannot_be_written_spoils_nothing_else(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Unwritable(Probe):
        META: ClassVar[Meta] = replace(Probe.META, id="unwritable")

        def measure(self, bench: Workbench) -> Reading:
            return replace(Reading.not_applicable(self.META, "x"), notes=(object(),))  # pyright: ignore[reportArgumentType]

    found = examine(specimen(), only=[Unwritable(), Probe()], output=tmp_path)
    assert found.readings["unwritable"].verdict.level is Level.ERROR
    assert found.readings["probe"].value == 1
    assert Examination.load(tmp_path / "examination.json") == found


def test_a_real_examination_fits_the_published_schema(tmp_path: Path) -> None:
    schema = json.loads((Path(__file__).parents[1] / "docs/schema/examination-1.json").read_text())
    found = examine(specimen(), "quick", output=tmp_path)
    assert len(found.readings) >= 8
    text = (tmp_path / "examination.json").read_text()
    jsonschema.validate(json.loads(text), schema)
    assert Examination.from_json(text) == found


@pytest.mark.parametrize("seconds", [59.6, 3599.0, 3700.0])
def test_hours_are_shown_as_hours(seconds: float) -> None:
    clocks = {59.6: "01:00", 3599.0: "59:59", 3700.0: "1:01:40"}
    assert _clock(seconds) == clocks[seconds]
