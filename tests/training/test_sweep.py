from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from joblib.externals.loky.process_executor import TerminatedWorkerError

from torchstone.errors import FormatError, OutputError, ProcessError, SettingError
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


def test_a_killed_sweep_resumes(tmp_path: Path) -> None:
    journal, numbers = tmp_path / "sweep.jsonl", [{"number": n} for n in range(9)]
    calls: list[int] = []

    def work(number: int) -> dict[str, Any]:
        # Every finished piece is on the disk by now, whatever happens to this process.
        assert len(journal.read_text().splitlines()) == 1 + number
        calls.append(number)
        if number == 4 and len(calls) == 5:
            raise KeyboardInterrupt
        return {"square": number**2, "pair": (number, number)}

    with pytest.raises(KeyboardInterrupt):
        sweep(work, numbers, journal=journal, backend="sequential")
    with journal.open("a") as file:
        file.write('{"settings": {"num')  # died while writing
    before = [json.loads(line) for line in journal.read_text().splitlines()[1:-1]]
    found = sweep(work, numbers, journal=journal, backend="sequential")
    assert calls == [0, 1, 2, 3, 4, 4, 5, 6, 7, 8]
    assert [dict(piece.values) for piece in found] == [{"square": n**2, "pair": [n, n]} for n in range(9)]
    after = [json.loads(line) for line in journal.read_text().splitlines()[1:]]
    assert after[: len(before)] == before
    assert len(after) == 9


def test_a_worker_that_dies_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*_: Any) -> Any:
        raise TerminatedWorkerError("A worker process was killed by SIGKILL(-9)")

    monkeypatch.setattr("torchstone.training.sweep._computed", dies)
    with pytest.raises(ProcessError, match=r"SIGKILL.*2 pieces left"):
        sweep(fail_on_odd, [{"number": 2}, {"number": 3}])


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
    journal.write_text(
        '{"sweep": "tests.training.test_sweep.fail_on_odd"}\n{"settings": {}}\n'.replace(
            "tests.training.test_sweep", __name__
        )
    )
    with pytest.raises(FormatError, match="without 'values'"):
        sweep(fail_on_odd, [{"number": 2}], journal=journal, backend="sequential")
    with pytest.raises(SettingError, match=r"number of workers.*got 1\.5"):
        sweep(fail_on_odd, [{"number": 2}], workers=1.5)  # pyright: ignore[reportArgumentType]
    with pytest.raises(SettingError, match="must be a function"):
        sweep("square", [{"number": 2}])  # pyright: ignore[reportArgumentType]
    with pytest.raises(SettingError, match=r"finite numbers.*got 3"):
        sweep(fail_on_odd, [3])  # pyright: ignore[reportArgumentType]
    with pytest.raises(SettingError, match="number of workers"):
        sweep(fail_on_odd, [{"number": 2}], workers=0)
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
