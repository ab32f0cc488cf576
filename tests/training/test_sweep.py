from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from torchstone.errors import FormatError, OutputError, SettingError
from torchstone.specimens.networks import mlp
from torchstone.training.evaluation import cross_entropy
from torchstone.training.fit import fit
from torchstone.training.sweep import sweep

SETTINGS: list[dict[str, Any]] = [{"width": width, "seed": seed} for width in (4, 8) for seed in (0, 1)]


def train(width: int, seed: int) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 5, generator=draw), torch.randint(3, (40,), generator=draw)
    generator = torch.Generator().manual_seed(seed)
    history = fit(
        mlp([5, width, 3], generator=generator),
        cross_entropy,
        x,
        y,
        optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
        batch_size=8,
        epochs=2,
        generator=generator,
    )
    return {"loss": history["train_loss"][-1], "losses": list(history["train_loss"])}


def fail_on_odd(number: int) -> dict[str, Any]:
    if number % 2:
        raise ValueError(f"{number} is odd")
    return {"half": number // 2}


def installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


@pytest.mark.parametrize(
    "backend",
    [
        "loky",
        "threading",
        pytest.param("dask", marks=pytest.mark.skipif(not installed("distributed"), reason="no dask")),
        pytest.param("ray", marks=pytest.mark.skipif(not installed("ray"), reason="no ray")),
    ],
)
def test_every_backend_finds_what_a_loop_finds(backend: Any) -> None:
    expected = sweep(train, SETTINGS, backend="sequential")
    found = sweep(train, SETTINGS, backend=backend, workers=2)
    assert [piece.settings for piece in found] == SETTINGS
    assert [piece.failure for piece in found] == [None] * 4
    for mine, its in zip(found, expected, strict=True):
        assert mine.values["losses"] == pytest.approx(its.values["losses"], rel=1e-6)
    if backend == "dask":
        from distributed import get_client  # pyright: ignore[reportMissingImports]

        get_client().shutdown()


def test_a_failing_piece_stops_no_other_and_can_be_tried_again(tmp_path: Path) -> None:
    journal = tmp_path / "sweep.jsonl"
    numbers = [{"number": n} for n in range(4)]
    found = sweep(fail_on_odd, numbers, journal=journal, workers=2)
    assert [piece.failure for piece in found] == [None, "ValueError: 1 is odd", None, "ValueError: 3 is odd"]
    assert [dict(piece.values) for piece in found] == [{"half": 0}, {}, {"half": 1}, {}]
    lines = len(journal.read_text().splitlines())
    sweep(fail_on_odd, numbers, journal=journal, workers=2)
    assert len(journal.read_text().splitlines()) == lines == 5
    sweep(fail_on_odd, numbers, journal=journal, backend="sequential", retry_failures=True)
    assert len(journal.read_text().splitlines()) == 7


def test_values_that_no_journal_can_hold_are_a_failure() -> None:
    (piece,) = sweep(lambda a: {"b": object()}, [{"a": 1}], backend="sequential")  # noqa: ARG005
    assert piece.failure is not None
    assert "JSON" in piece.failure


SLOW = """
import sys, time
from torchstone.training.sweep import sweep
def work(number):
    time.sleep(0.2)
    return {"number": number}
work.__module__ = "slow"
found = sweep(work, [{"number": n} for n in range(int(sys.argv[2]))], journal=sys.argv[1], backend="sequential")
print(len(found))
"""


def test_a_killed_sweep_resumes(tmp_path: Path) -> None:
    journal, script = tmp_path / "sweep.jsonl", tmp_path / "slow.py"
    script.write_text(SLOW)
    command = [sys.executable, str(script), str(journal)]
    running = subprocess.Popen([*command, "200"])
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and (not journal.exists() or len(journal.read_text().splitlines()) < 4):
        time.sleep(0.05)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    with journal.open("a") as file:
        file.write('{"settings": {"num')  # died while writing
    before = [json.loads(line) for line in journal.read_text().splitlines()[1:-1]]
    assert 3 <= len(before) < 200
    done = subprocess.run([*command, str(len(before) + 1)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(len(before) + 1)]
    after = [json.loads(line) for line in journal.read_text().splitlines()[1:]]
    assert after[: len(before)] == before
    assert len(after) == len(before) + 1


def test_mistakes_get_words(tmp_path: Path) -> None:
    journal = tmp_path / "sweep.jsonl"
    sweep(fail_on_odd, [{"number": 2}], journal=journal, backend="sequential")
    with pytest.raises(SettingError, match=r"must be of .*train"):
        sweep(train, SETTINGS, journal=journal, backend="sequential")
    journal.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FormatError, match="journal"):
        sweep(fail_on_odd, [{"number": 2}], journal=journal, backend="sequential")
    journal.write_text("hello\n")
    with pytest.raises(FormatError, match="no line of JSON"):
        sweep(fail_on_odd, [{"number": 2}], journal=journal, backend="sequential")
    with pytest.raises(OutputError, match="must lie in a folder"):
        sweep(fail_on_odd, [{"number": 2}], journal=tmp_path / "no" / "file", backend="sequential")
    with pytest.raises(SettingError, match="must differ"):
        sweep(fail_on_odd, [{"number": 2}, {"number": 2}])
    with pytest.raises(SettingError, match="finite numbers"):
        sweep(fail_on_odd, [{"number": torch.zeros(2)}])  # pyright: ignore[reportArgumentType]
    with pytest.raises(SettingError, match="finite numbers"):
        sweep(fail_on_odd, [{"number": float("nan")}])
    with pytest.raises(SettingError, match="one of"):
        sweep(fail_on_odd, [{"number": 2}], backend="celery")  # pyright: ignore[reportArgumentType]
    if not installed("ray"):
        with pytest.raises(SettingError, match=r"torchstone\[ray\]"):
            sweep(fail_on_odd, [{"number": 2}], backend="ray")
    assert sweep(fail_on_odd, []) == []
