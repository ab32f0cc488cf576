"""The journal survives whatever ends a run, and never mixes two examinations."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from torchstone.errors import OutputError
from torchstone.examination import Examination
from torchstone.journal import FILE_NAME, Journal
from torchstone.reading import CostClass, Meta, Question, Reading

META = Meta("first", Question.FIT, "t", "a?", CostClass.INSTANT, (), "u", "s")
READING = Reading.not_applicable(META, "no")

# Three instruments: two are quick, the last waits to be killed the first time.
SCRIPT = """
import sys, time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar
import torch
from torch import nn
from torchstone import Classification, Reading, Specimen, examine
from torchstone.reading import CostClass, Level, Meta, Question, Verdict

folder, waits = Path(sys.argv[1]), sys.argv[2] == "waits"

@dataclass(frozen=True)
class First:
    META: ClassVar[Meta] = Meta("first", Question.FIT, "t", "a?", CostClass.INSTANT, (), "u", "s")

    def measure(self, bench):
        with (folder / "calls").open("a") as file:
            print(self.META.id, file=file)
        if self.META.id == "third" and waits:
            (folder / "waiting").touch()
            time.sleep(60)
        value = float(torch.rand((), generator=bench.generator(self.META.id)))
        return Reading.of(self.META, value=value, verdict=Verdict(Level.GOOD, "r", "t", "s"), headline="h")

@dataclass(frozen=True)
class Second(First):
    META: ClassVar[Meta] = replace(First.META, id="second")

@dataclass(frozen=True)
class Third(First):
    META: ClassVar[Meta] = replace(First.META, id="third")

model = nn.Linear(2, 2)
torch.nn.init.eye_(model.weight), torch.nn.init.zeros_(model.bias)
specimen = Specimen(model, Classification(), (torch.eye(2), torch.arange(2)))
examine(specimen, only=[First(), Second(), Third()], output=folder / "out")
"""


def run_until_it_waits(folder: Path) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, folder, "waits"], stderr=subprocess.PIPE)
    for _ in range(600):
        if (folder / "waiting").exists():
            return process
        time.sleep(0.05)
    process.kill()
    raise AssertionError("the run never reached its third instrument")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Examination:
    """What the same run measures when nothing ends it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    subprocess.run([sys.executable, "-c", SCRIPT, folder, "finishes"], check=True)
    return Examination.load(folder / "out" / "examination.json")


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_was_ended_goes_on_where_it_was(
    tmp_path: Path, ending: signal.Signals, undisturbed: Examination
) -> None:
    process = run_until_it_waits(tmp_path)
    process.send_signal(ending)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    out = tmp_path / "out"
    if ending is signal.SIGINT:
        assert b"KeyboardInterrupt" in errors
        partial = Examination.load(out / "examination.json")
        assert list(partial.readings) == ["first", "second"]
        assert not partial.complete
        assert (out / "report.html").exists()
    else:
        assert [path.name for path in out.iterdir()] == [FILE_NAME]
    subprocess.run([sys.executable, "-c", SCRIPT, tmp_path, "finishes"], check=True)
    assert (tmp_path / "calls").read_text().split() == ["first", "second", "third", "third"]
    resumed = Examination.load(out / "examination.json")
    assert resumed.complete
    assert list(undisturbed.readings) == list(resumed.readings)
    for name, reading in undisturbed.readings.items():
        assert reading.without_cost() == resumed.readings[name].without_cost()


@pytest.mark.parametrize(
    "content", ["my notes\n", "\n\n", "[1, 2]\n", '{"journal"', '{"a": 1}\n', "\x00\xff"]
)
def test_a_file_that_is_no_journal_is_not_overwritten(tmp_path: Path, content: str) -> None:
    path = tmp_path / FILE_NAME
    path.write_text(content, encoding="latin-1")
    with pytest.raises(OutputError, match=r"got a journal\S* .*--fresh"):
        Journal(tmp_path, "f")
    assert path.read_text(encoding="latin-1") == content
    Journal(tmp_path, "f", fresh=True)
    assert json.loads(path.read_text()) == {"journal": 1, "fingerprint": "f"}


def test_an_empty_file_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).touch()
    assert Journal(tmp_path, "f").readings == {}


def test_a_folder_in_its_place(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(OutputError, match="cannot be read"):
        Journal(tmp_path, "f")


def test_a_reading_damaged_in_place_is_measured_again(tmp_path: Path) -> None:
    """Valid JSON of the right shape whose series do not belong together."""
    journal = Journal(tmp_path, "f")
    journal.add(READING, 1.0)
    path = tmp_path / FILE_NAME
    line = json.loads(path.read_text().splitlines()[1])
    line["reading"]["details"] = [
        {"type": "Spectrum", "title": "s", "values": [1.0], "residuals": [1.0, 2.0]}
    ]
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")
    again = Journal(tmp_path, "f")
    assert list(again.readings) == ["first"]
    assert again.readings["first"].details == ()
    assert len(path.read_text().splitlines()) == 2


def test_the_last_reading_of_an_instrument_counts(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "f")
    journal.add(READING, 1.0)
    other = Reading.not_applicable(META, "another reason")
    journal.add(other, 2.0)
    assert Journal(tmp_path, "f").readings == {"first": other}


def test_line_separators_in_texts_do_not_split_lines(tmp_path: Path) -> None:
    reading = Reading.not_applicable(META, "a\u2028b\x85c\x0bd\ud800")
    Journal(tmp_path, "f").add(reading, 1.0)
    assert Journal(tmp_path, "f").readings == {"first": reading}
