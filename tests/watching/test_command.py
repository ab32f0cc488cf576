"""`torchstone watch` and `torchstone report` on a run, as a user meets them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from torchstone.cli import main
from torchstone.errors import FormatError, SettingError
from torchstone.watching import command
from torchstone.watching.loggers import JsonLines
from torchstone.watching.terminal import line, sparkline, summary


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "torchstone", *words], cwd=folder, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, env={**os.environ, "COLUMNS": "120", "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip


Run = Callable[..., tuple[object, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command, in this process and in `tmp_path`: its exit code and what it prints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")

    def called(*words: str) -> tuple[object, str]:
        monkeypatch.setattr(sys, "argv", ["torchstone", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return ended.value.code or 0, said.out + said.err

    return called


def test_watch_prints_a_summary(tmp_path: Path, run: Run, make_log, write_log) -> None:
    write_log(make_log(), tmp_path / "one")
    code, said = run("watch", "one")
    assert code == 0
    assert "Net · 1,234 trainable parameters · SGD, learning rate 0.1 · 40 steps in 4.0 s" in said
    assert "✖ Vanishing (from step 10): block.1 hardly moves." in said
    assert "→ Normalise." in said
    assert re.search(r"Gradient norm +0\.025 +0\.025 +1 +█", said)


def test_report_writes_a_page_beside_the_log(tmp_path: Path, run: Run, make_log, write_log) -> None:
    path = write_log(make_log(), tmp_path / "one")
    code, said = run("report", "one")
    assert (code, said.strip()) == (0, "Wrote one/run.html")
    assert "Does it learn?" in (tmp_path / "one" / "run.html").read_text()
    assert command.write_report(path, "text", None).startswith("one\nNet")
    assert command.write_report(path, "text", tmp_path / "a.txt") == f"Wrote {tmp_path / 'a.txt'}"


def test_a_run_beside_an_examination_shows_both(tmp_path: Path, make_log, write_log) -> None:
    import torch
    from torch import nn

    import torchstone

    g = torch.Generator().manual_seed(0)
    x = torch.randn(60, 3, generator=g)
    specimen = torchstone.Specimen(nn.Linear(3, 2), torchstone.Classification(), (x, (x[:, 0] > 0).long()))
    write_log(make_log(), tmp_path)
    torchstone.examine(specimen, only=["activation_health", "condition_number"], output=tmp_path)
    command.write_report(tmp_path, "html", None)
    page = (tmp_path / "run.html").read_text()
    assert "Are its steps of the right size?" in page
    assert "The network as it was examined" in page
    assert 'id="r-condition_number"' in page
    assert (tmp_path / "report.html").exists()  # the examination's own page is left alone


def test_mistakes_are_said_in_words(tmp_path: Path, run: Run, make_log, write_log) -> None:
    write_log(make_log(), tmp_path)
    with pytest.raises(SettingError, match="report of a run is html or text; got md"):
        command.write_report(tmp_path, "md", None)
    with pytest.raises(FormatError, match="must exist; got no "):
        command.check_place(tmp_path / "gone", waits=False)
    command.check_place(tmp_path / "gone", waits=True)
    (tmp_path / "a.txt").touch()
    with pytest.raises(FormatError, match=r"a folder, or the .jsonl file in it"):
        command.check_place(tmp_path / "a.txt", waits=True)
    assert not command.is_run(tmp_path / "a.txt")
    code, said = run("watch", ".", "--serve", "--host", "192.168.0.1")
    assert code == 2
    assert "loopback only" in said
    assert "Traceback" not in said


def test_follow_tells_a_run_as_it_goes_on_until_it_ends(tmp_path: Path, make_log) -> None:
    log = make_log()
    process = start(tmp_path, "watch", "later", "--follow")
    try:
        time.sleep(1)  # the file does not exist yet
        logger = JsonLines(tmp_path / "later")
        logger.start(log.header)
        logger.record(log.records[0])
        assert process.stdout is not None
        assert process.stdout.readline() == "step 1: loss 1, gradient_norm 1\n"
        assert process.poll() is None
        logger.alert(log.alerts[0])
        assert process.stdout.readline() == "ALERT step 5: A step changes block.0 by 20%. Warm up.\n"
        logger.finish({"ended": "finished"})
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("how", [["--follow"], ["--serve"]])
def test_interrupting_ends_cleanly(tmp_path: Path, how: list[str], make_log, write_log) -> None:
    write_log(make_log(ended=False), tmp_path / "one")
    process = start(tmp_path, "watch", "one", *how)
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        if how == ["--serve"]:
            found = re.search(r"http://127\.0\.0\.1:\d+/", first)
            assert found is not None, first
            with urllib.request.urlopen(found[0]) as answer:
                assert b"torchstone" in answer.read()
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=30)
        assert process.returncode == 0
        assert "Stopped" in said
        assert "Traceback" not in said
    finally:
        process.kill()
        process.communicate()


def test_sparklines() -> None:
    assert sparkline([]) == ""
    assert sparkline([3.0, 3.0]) == "▁▁"
    assert sparkline([float("nan"), 1.0, float("inf"), 2.0]) == " ▁ █"
    assert sparkline([0.0, 1.0, 10.0], log=True) == " ▁█"
    assert sparkline([0.0, 1.0], signs=False) == ".%"
    assert len(sparkline([float(i) for i in range(1000)], 18)) <= 18
    assert line_is_monotone(sparkline([float(i) for i in range(1000)], 18))


def line_is_monotone(text: str) -> bool:
    return list(text) == sorted(text)


def test_a_terminal_without_signs_gets_ascii(make_log) -> None:
    import io

    written = io.StringIO()
    console = Console(file=written, width=100, color_system=None)
    console.print(summary(make_log(), "one", signs=False))
    assert written.getvalue().isascii() or set(written.getvalue()) - set(map(chr, range(128))) <= {
        "−",
        "×",
        "⁻",
    }


def test_a_record_is_one_line_whatever_its_names(make_log) -> None:
    from torchstone.watching.record import Record

    log = make_log()
    log.records.append(Record(41, 1.0, {"a\x1b[2J\nb": 1.0}))
    assert line(log, -1) == "step 41: a\ufffd[2J b 1"
