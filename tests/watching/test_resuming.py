"""Logs that are begun again: after a checkpoint, after a kill in the middle of a line, and by two runs at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from torchstone.errors import OutputError, SettingError
from torchstone.watching import TrainingWarning, watch
from torchstone.watching.log import LogReader, WatchLog
from torchstone.watching.loggers import JsonLines
from torchstone.watching.record import Header, Record
from torchstone.watching.report import run_page


def header(resumed: int = 0) -> Header:
    return Header("2026-01-02", "Net", 10, "SGD", 0.1, "1", 0.1, resumed=resumed)


def begun(folder: Path, steps: range, resumed: int = 0) -> JsonLines:
    logger = JsonLines(folder)
    logger.start(header(resumed))
    for step in steps:
        logger.record(Record(step, float(step), {"loss": 1 / step}))
    return logger


def test_a_resumed_run_goes_on_where_its_checkpoint_was(tmp_path: Path) -> None:
    begun(tmp_path, range(1, 8))
    reader = LogReader(tmp_path)
    assert reader.read()
    begun(tmp_path, range(6, 9), resumed=5)
    for log in (WatchLog.load(tmp_path), reader.log if reader.read() else None):
        assert log is not None
        assert log.series("loss")[0] == [1, 2, 3, 4, 5, 6, 7, 8]
        assert [record.seconds for record in log.records][4:6] == [5.0, 11.0]  # 5 before, 6 since
    assert ("Resumed", "after step 5") in run_page(WatchLog.load(tmp_path), "run").circumstances
    begun(tmp_path, range(1, 3))
    assert WatchLog.load(tmp_path).series("loss")[0] == [1, 2]  # another run


def test_a_line_that_a_killed_run_left_unfinished_costs_nothing_else(tmp_path: Path) -> None:
    logger = begun(tmp_path, range(1, 4))
    with logger.path.open("ab") as file:
        file.write(b'{"record": {"step": 4, "sec')
    assert WatchLog.load(tmp_path).series("loss")[0] == [1, 2, 3]
    begun(tmp_path, range(4, 6), resumed=3)
    log = WatchLog.load(tmp_path)
    assert (log.series("loss")[0], log.damaged) == ([1, 2, 3, 4, 5], 1)


def test_two_runs_at_once_in_one_folder_are_told_apart(tmp_path: Path) -> None:
    first = begun(tmp_path, range(1, 3))
    second = begun(tmp_path, range(1, 2))
    with pytest.raises(OutputError, match="must be written by one run at a time"):
        first.record(Record(3, 1.0, {"loss": 9.0}))
    second.record(Record(2, 1.0, {"loss": 0.5}))
    assert WatchLog.load(tmp_path).series("loss")[1] == [1.0, 0.5]


def test_a_watcher_counts_on(tmp_path: Path) -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for resumed in (0, 4):
        with watch(model, optimizer, every=4, quantities="loss", folder=tmp_path, resumed=resumed) as watcher:
            for _ in range(5):
                watcher.step(1.0)
    assert WatchLog.load(tmp_path).series("loss")[0] == [1, 4, 5, 8]
    for wrong in (-1, 1.5, True):
        with pytest.raises(SettingError, match="resumed must be the number of steps"):
            watch(model, optimizer, resumed=wrong)
    with pytest.warns(TrainingWarning, match="outside of the watcher's `with` block"):
        watcher.step(1.0)
