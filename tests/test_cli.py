"""The command line as a user meets it: what it prints, what it writes, how it ends."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from torchstone.cli import _command, main
from torchstone.examination import Examination

TARGETS = """
import torch
from torch import nn
from torchstone import Classification, Regression, Specimen

def data(seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(120, 5, generator=generator)
    return x, (x[:, 0] > 0).long()

def network():
    layer = nn.Linear(5, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[-1.0, 0, 0, 0, 0.5], [1.0, 0, 0, 0, 0]]))
        layer.bias.zero_()
    return layer

def spec(classes=("no", "yes"), seed=0):
    x, y = data(seed)
    return Specimen(network(), Classification(classes), (x[:80], y[:80]), (x[80:], y[80:]), name="mine")

def hostile():
    return spec(("<script>alert(1)</script>", "[red]yes[/red]"))

ready = spec()

def wrong():
    return 3

def boom():
    raise ValueError("no [data] here")

def needs(path):
    return path

def floats():
    x, y = data()
    return Specimen(network(), Classification(), (x, torch.rand(120, 2)))

def out_of_range():
    x, y = data()
    return Specimen(network(), Classification(), (x, y + 1))

def one_class():
    x, y = data()
    return Specimen(network(), Classification(), (x, torch.zeros(120, dtype=torch.long)))

def empty():
    return Specimen(network(), Classification(), (torch.zeros(0, 5), torch.zeros(0, dtype=torch.long)))

def nan_inputs():
    x, y = data()
    x[3, 2] = float("nan")
    return Specimen(network(), Classification(), (x, y))

def nan_weights():
    model, (x, y) = network(), data()
    with torch.no_grad():
        model.weight[0, 0] = float("nan")
    return Specimen(model, Classification(), (x, y))

def slow():
    import time
    from torchstone.workbench import Workbench
    real = Workbench.scores
    def scores(self, split="train"):
        time.sleep(1.5)
        return real(self, split)
    Workbench.scores = scores
    return spec()
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "my.py").write_text(TARGETS)
    return tmp_path


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


def run(folder: Path, *arguments: str) -> Done:
    """The command line in this process: a start of Python for each case would take most of the suite's time."""
    out, errors, path, modules = io.StringIO(), io.StringIO(), list(sys.path), set(sys.modules)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(errors):
        patch.chdir(folder)
        patch.setenv("COLUMNS", "200")
        patch.setenv("NO_COLOR", "1")
        patch.setattr(sys, "argv", ["torchstone", *arguments])
        try:
            main()
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(bool(ended.code))
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name == "my":
            del sys.modules[name]
    return Done(code, out.getvalue(), errors.getvalue())


FEW = ("--only", "generalization_gap", "--only", "margins")


def test_the_command_in_a_report_is_told_without_secrets() -> None:
    given = [
        "torchstone",
        "examine",
        "my.py:spec",
        "--set",
        "exposure.canaries=((1, 23),)",
        "--set=exposure.canaries=45",
    ]
    shown = _command([*given, "--set", "margins.confidence=0.9", "--with", "rate=6"])
    assert "23" not in shown
    assert "45" not in shown
    assert shown.count("exposure.canaries=…") == 2
    assert "--set margins.confidence=0.9 --with rate=6" in shown


def test_examine_writes_a_report_and_prints_a_summary(project: Path) -> None:
    done = run(project, "examine", "my.py:spec", *FEW)
    assert done.returncode == 0, done.stderr
    folder = project / "torchstone-reports" / "my.py-spec"
    examination = Examination.load(folder / "examination.json")
    assert list(examination.readings) == ["generalization_gap", "margins"]
    assert examination.command.startswith("torchstone examine my.py:spec")
    assert (folder / "report.html").read_text().startswith("<!")
    assert "report.html" in done.stdout
    assert "Margins" in done.stdout
    assert len(done.stdout.splitlines()) <= 40
    assert "Traceback" not in done.stderr


def test_a_second_run_resumes_and_fresh_starts_again(project: Path) -> None:
    folder = project / "out"
    run(project, "examine", "my.py:spec", "--only", "margins", "--output", "out")
    first = (folder / "journal.jsonl").read_text()
    assert run(project, "examine", "my.py:spec", *FEW, "--output", "out").returncode == 0
    second = (folder / "journal.jsonl").read_text()
    assert second.startswith(first)  # margins was not measured again
    assert len(second.splitlines()) == 3
    refused = run(project, "examine", "my.py:spec", *FEW, "--seed", "1", "--output", "out")
    assert refused.returncode == 2
    assert "--fresh" in refused.stderr
    assert (folder / "journal.jsonl").read_text() == second
    assert (
        run(project, "examine", "my.py:spec", *FEW, "--seed", "1", "--output", "out", "--fresh").returncode
        == 0
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("my.py:wrong",), ("must return a torchstone.Specimen", "got int")),
        (("my.py:boom",), ("ValueError: no [data] here", "my.py:")),
        (("my.py:needs",), ("required arguments path", "--with")),
        (("my.py:spek",), ("must define 'spek'", "spec")),
        (("gone.py:spec",), ("must exist", "gone.py")),
        (("no.such.module:spec",), ("no module 'no.such.module'",)),
        (("digts",), ("Did you mean digits?",)),
        (("my.py:floats",), ("integer class labels", "torch.float32", ".long()")),
        (("my.py:out_of_range",), ("Labels must lie in 0..1", "1 to 2")),
        (("my.py:one_class",), ("at least two classes", "only class 0")),
        (("my.py:empty",), ("at least one example",)),
        (("my.py:nan_inputs",), ("must be finite", "1 NaN or infinite")),
        (("my.py:nan_weights",), ("NaN or infinite values in weight", "diverged")),
        (("my.py:spec", "--only", "margin"), ("'margin'", "Did you mean margins?")),
        (("my.py:spec", "--skip", "nothing"), ("'nothing'",)),
        (("my.py:spec", "--set", "margins.quantil=0.2"), ("'quantil'", "quantile")),
        (("my.py:spec", "--set", "margins.quantile=7"), ("margins.quantile", "got 7")),
        (("my.py:spec", "--set", "quantile=7"), ("instrument.setting=value",)),
        (("my.py:spec", "--with", "colour=1"), ("'colour'", "classes, seed")),
        (("my.py:spec", "--with", "colour"), ("name=value",)),
        (("my.py:spec", "--budget", "lots"), ("512MiB",)),
        (("my.py:spec", "--device", "nonsense"), ("device", "'nonsense'")),
        (("my.py:spec", "--output", "/proc/nowhere"), ("must be writable",)),
        (("my.py:spec", "--plan", "quik"), ("quik",)),
    ],
)  # fmt: skip
def test_mistakes_end_in_one_paragraph_and_code_2(
    project: Path, arguments: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    done = run(project, "examine", *arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    text = " ".join(done.stderr.split())
    for words in expected:
        assert words in text
    assert "Traceback" not in done.stderr
    assert not list(project.rglob("report.html"))
    assert not (project / "torchstone-reports").exists(), "what is refused leaves nothing behind"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--only", "margin"), "Did you mean margins?"),
        (("--set", "margins.quantil=0.2"), "'quantil'"),
        (("--try", "init=orthogonl"), "Did you mean orthogonal"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(
    project: Path, arguments: tuple[str, ...], words: str
) -> None:
    done = run(project, "examine", "digits", *arguments)
    assert done.returncode == 2
    assert words in " ".join(done.stderr.split())
    assert "Training" not in done.stderr


def test_verdicts_do_not_change_the_exit_code_and_names_stay_text(project: Path) -> None:
    done = run(project, "examine", "my.py:hostile", *FEW, "--output", "out")
    assert done.returncode == 0, done.stderr
    page = (project / "out" / "report.html").read_text()
    assert "<script>alert(1)" not in page


def test_a_specimen_can_be_an_object_and_takes_options(project: Path) -> None:
    assert run(project, "examine", "my.py:ready", "--only", "margins", "--output", "a").returncode == 0
    assert (
        run(
            project, "examine", "my:spec", "--with", "seed=5", "--only", "margins", "--output", "b"
        ).returncode
        == 0
    )
    first, second = (
        Examination.load(project / name / "examination.json").readings["margins"] for name in "ab"
    )
    assert first.value != second.value


def test_report_writes_every_format(project: Path) -> None:
    run(project, "examine", "my.py:spec", *FEW, "--output", "out")
    file = str(project / "out" / "examination.json")
    (project / "out" / "report.html").unlink()
    assert run(project, "report", file).returncode == 0
    assert (project / "out" / "report.html").exists()
    markdown = run(project, "report", file, "--format", "md")
    assert "# " in markdown.stdout
    assert "Margins" in markdown.stdout
    text = run(project, "report", file, "--format", "text", "--output", "summary.txt")
    assert text.returncode == 0
    assert "Margins" in (project / "summary.txt").read_text()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "must be JSON"),
        ("[1]", "'schema'"),
        ('{"schema": 99}', "Update torchstone"),
        ('{"schema": 1}', "expected a field"),
    ],
)
def test_a_damaged_file_is_refused_in_words(project: Path, content: str, expected: str) -> None:
    (project / "broken.json").write_text(content)
    done = run(project, "report", "broken.json")
    assert done.returncode == 2
    assert expected in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_a_missing_file_is_refused_in_words(project: Path) -> None:
    done = run(project, "report", "gone.json")
    assert done.returncode == 2
    assert "no file gone.json" in " ".join(done.stderr.split())


def test_listings(project: Path) -> None:
    from torchstone.instruments.catalogue import catalogue

    listed = json.loads(run(project, "instruments", "--json").stdout)
    assert [meta["id"] for meta in listed] == list(catalogue())
    assert "margins" in run(project, "instruments").stdout
    assert "two-moons" in run(project, "specimens").stdout
    assert "double_descent" in run(project, "atlas", "list").stdout
    index = json.loads(run(project, "atlas", "index", "--json").stdout)
    assert {"R16", "X06"} <= {entry["id"] for entry in index}


def test_atlas_runs_a_claim(project: Path) -> None:
    done = run(project, "atlas", "run", "softmax_gradient", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)
    unknown = run(project, "atlas", "run", "softmax_gradiant")
    assert unknown.returncode == 2
    assert "softmax_gradient" in unknown.stderr


def test_interrupting_keeps_what_is_finished_and_says_how_to_resume(project: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    command = [
        sys.executable,
        "-m",
        "torchstone",
        "examine",
        "my.py:slow",
        "--output",
        "out",
        "--plan",
        "quick",
    ]
    process = subprocess.Popen(
        command, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    journal, deadline = project / "out" / "journal.jsonl", time.monotonic() + 60
    while time.monotonic() < deadline and not (
        journal.exists() and len(journal.read_text().splitlines()) >= 2
    ):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Interrupted" in errors
    assert "resumes" in errors
    partial = Examination.load(project / "out" / "examination.json")
    assert not partial.complete
    assert partial.readings
    finished = set(partial.readings)
    done = run(project, "examine", "my.py:spec", "--output", "out", "--plan", "quick")
    assert done.returncode == 0, done.stderr
    whole = Examination.load(project / "out" / "examination.json")
    assert whole.complete
    assert {
        name: whole.readings[name] for name in finished
    } == partial.readings  # costs too: not measured again


def test_the_module_runs_as_a_program(project: Path) -> None:
    command = [sys.executable, "-m", "torchstone", "version"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip()
