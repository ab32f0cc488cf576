"""`torchstone examine --try`: both sides on the terminal and in the files, refusals in words."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from torchstone.cli import main
from torchstone.examination import Examination

TARGET = """
import torch
from torch import nn
from torchstone import Classification, Specimen

def spec():
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))
    for parameter in model.parameters():
        nn.init.normal_(parameter, generator=generator)
    return Specimen(model, Classification(), (torch.randn(20, 4, generator=generator), torch.arange(20) % 2))
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mended_target.py").write_text(TARGET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("COLUMNS", "160")
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    command = ["torchstone", "examine", "mended_target.py:spec", "--only", "gradient_flow", "--output", "out"]
    monkeypatch.setattr(sys, "argv", [*command, *arguments])
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def test_both_sides_are_printed_and_saved_and_earlier_readings_are_kept(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch) == 0
    journal = (project / "out" / "journal.jsonl").read_text()
    assert "verdict after" not in capsys.readouterr().out
    assert run(monkeypatch, "--try", "norm=layer,skip=residual") == 0
    assert (project / "out" / "journal.jsonl").read_text() == journal  # gradient flow was not measured again
    assert "verdict after" in capsys.readouterr().out
    found = Examination.load(project / "out" / "examination.json")
    assert list(found.readings) == ["gradient_flow", "remedy_tried"]
    assert found.complete
    assert "--try norm=layer,skip=residual" in found.command


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--try", "norm=laier"), "norm must be one of layer"),
        (("--try", "norm=none"), "needs normalisation layers to take out"),
        (("--try", "norm=layer", "--train", "3"), "Training both networks needs Recipe"),
        (("--train", "3"), "A remedy is written init="),
        (("--try", "norm=layer", "--train", "-1"), "number of epochs is a whole number"),
    ],
)
def test_mistakes_end_in_words_and_code_2(
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    assert run(monkeypatch, *arguments) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (project / "out" / "examination.json").exists()
