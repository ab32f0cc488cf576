"""Reading a run's log back: whole, torn, damaged, several runs in one file, while it is written."""

import json
import math
from pathlib import Path

import pytest

from torchstone.errors import FormatError
from torchstone.watching.log import LogReader, WatchLog, latest
from torchstone.watching.loggers import JsonLines
from torchstone.watching.record import Alert, Header, Record, Series, plain

HEADER = Header(
    "2026-01-02T03:04:05+00:00", "Net", 10, "SGD", 0.1, "auto", 0.1, {"loss": Series("Training loss", "loss")}
)
ALERT = Alert(2, "diverging", "poor", "", "The loss is nan at step 2.", "Go back.")


def record(step: int, loss: float, **layers: float) -> Record:
    return Record(step, step / 10, {"loss": loss}, {"gradient_norm": layers} if layers else {})


def write(folder: Path, *, end: bool = True) -> Path:
    log = JsonLines(folder)
    log.start(HEADER)
    log.record(record(1, 0.5, a=1.0))
    log.record(record(2, math.nan, a=math.inf, b=2.0))
    log.alert(ALERT)
    if end:
        log.finish({"steps": 2, "ended": "finished"})
    return log.path


def test_a_log_comes_back_as_it_was(tmp_path: Path) -> None:
    path = write(tmp_path)
    for place in (tmp_path, path, str(tmp_path)):
        log = WatchLog.load(place)
        assert log.header == HEADER
        assert log.alerts == [ALERT]
        assert log.summary == {"steps": 2, "ended": "finished"}
        assert log.names == ("loss",)
        steps, values = log.series("loss")
        assert steps == [1, 2]
        assert values[0] == 0.5
        assert math.isnan(values[1])
        assert log.layered == ("gradient_norm",)
        assert log.layers("gradient_norm")["b"] == ([2], [2.0])
        assert log.damaged == 0


def test_series_that_the_header_does_not_know_are_kept() -> None:
    log = WatchLog(HEADER, [Record(1, 0.0, {"my_own": 1.0, "loss": 2.0})])
    assert log.names == ("loss", "my_own")
    assert log.described("my_own").title == "My own"
    assert log.described("loss").title == "Training loss"
    assert log.series("gone") == ([], [])


def test_a_torn_last_line_is_dropped_wherever_it_is_torn(tmp_path: Path) -> None:
    path = write(tmp_path, end=False)
    whole = path.read_bytes()
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    for cut in range(last + 1, len(whole)):
        path.write_bytes(whole[:cut])
        log = WatchLog.load(path)
        assert (len(log.records), log.alerts, log.summary, log.damaged) == (2, [], None, 0)


def test_the_last_header_wins(tmp_path: Path) -> None:
    write(tmp_path)
    later = JsonLines(tmp_path)
    later.start(Header("2026-02-02", "Other", 5, "Adam", None, "10", 0.1))
    later.record(record(7, 0.25))
    log = WatchLog.load(tmp_path)
    assert log.header.model == "Other"
    assert [one.step for one in log.records] == [7]
    assert (log.alerts, log.summary) == ([], None)


def test_damaged_lines_are_counted_and_left_out(tmp_path: Path) -> None:
    path = write(tmp_path)
    lines = path.read_text().splitlines()
    rubbish = ['{"record": {"step": 1}}', "[]", '{"record": 3}', "\x00\x00", '{"unknown": {}}', ""]
    path.write_text("\n".join([lines[0], *rubbish, *lines[1:]]) + "\n")
    log = WatchLog.load(path)
    assert len(log.records) == 2
    assert log.damaged == 4  # a kind of line that is not known here is no damage


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no header in it"),
        ('{"header": {"star', "no header in it"),
        ("\n", "no header in it"),
        ("hello\n", "line 1 is something else"),
        ('{"schema": 1, "readings": {}}\n', "line 1 is something else"),
        ('{"record": {"step": 1, "seconds": 0, "values": {}}}\n', "line 1 is something else"),
        ('{"header": {"started": "x"}}\n', "line 1 is something else"),
        ("[" * 100_000 + "\n", "line 1 is something else"),
        (json.dumps({"header": {**plain(HEADER), "version": 99}}) + "\n", "version 99"),
    ],
)
def test_what_is_no_log_is_refused(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "watch.jsonl"
    path.write_text(text)
    with pytest.raises(FormatError, match=says):
        WatchLog.load(tmp_path)


def test_a_missing_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"must exist; got no file .*watch.jsonl. Pass the folder"):
        WatchLog.load(tmp_path / "nothing")


def test_an_unreadable_log_is_refused(tmp_path: Path) -> None:
    (tmp_path / "watch.jsonl").mkdir()
    with pytest.raises(FormatError, match="must be readable"):
        WatchLog.load(tmp_path)


def test_a_reader_goes_on_where_it_was(tmp_path: Path) -> None:
    reader = LogReader(tmp_path / "later")
    assert not reader.read()  # the file does not exist yet
    assert reader.log is None
    log = JsonLines(tmp_path / "later")
    log.start(HEADER)
    assert reader.read()
    assert not reader.read()
    log.record(record(1, 0.5))
    with log.path.open("ab") as file:
        file.write(b'{"record": {"step": 2, "sec')
    assert reader.read()
    assert reader.log is not None
    assert len(reader.log.records) == 1
    with log.path.open("ab") as file:
        file.write(b'onds": 0.2, "values": {"loss": 0.25}}}\n')
    assert reader.read()
    assert reader.log.series("loss") == ([1, 2], [0.5, 0.25])


def test_a_reader_notices_a_new_file(tmp_path: Path) -> None:
    path = write(tmp_path)
    reader = LogReader(path)
    reader.read()
    path.unlink()
    assert not reader.read()
    JsonLines(tmp_path).start(HEADER)
    assert reader.read()
    assert reader.log is not None
    assert reader.log.records == []


def test_latest_skips_what_is_not_a_number() -> None:
    assert latest([1.0, 2.0, math.nan]) == 2.0
    assert latest([math.inf]) == math.inf
    assert math.isnan(latest([math.nan]))
    assert math.isnan(latest([]))
