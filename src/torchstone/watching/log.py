"""A watched run read back from its log, whole or while it is still being written."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torchstone.errors import FormatError
from torchstone.watching.loggers.json_lines import FILE_NAME
from torchstone.watching.record import (
    VERSION,
    Alert,
    Header,
    Record,
    Series,
    alert_of,
    header_of,
    record_of,
)

_FIX = f"Pass the folder given to watch(folder=...), or the {FILE_NAME} in it."


@dataclass
class WatchLog:
    """What a watched run left behind.

    Where several runs wrote to one folder, this is the last of them; where that one was resumed, after what came before.

    Attributes:
        header: What is watched.
        records: What was measured, the oldest first.
        alerts: What was said.
        summary: What the run said at its end; None while it goes on, or where it was killed.
        damaged: Lines that could not be read and were left out.
        seconds_before: What the run had taken before it was resumed.
    """

    header: Header
    records: list[Record] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)
    summary: Mapping[str, Any] | None = None
    damaged: int = 0
    seconds_before: float = 0.0

    @classmethod
    def load(cls, place: str | Path) -> WatchLog:
        """Read the log of a run.

        Args:
            place: The run's folder or its file.

        Raises:
            FormatError: It does not exist, cannot be read, is no log of a run, or one of a newer version.
        """
        reader = LogReader(place)
        if not reader.path.exists():
            raise FormatError("The log of a watched run must exist", f"no file {reader.path}", _FIX)
        reader.read()
        if reader.log is None:
            raise FormatError(f"{reader.path} must be the log of a watched run", "no header in it", _FIX)
        return reader.log

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the series that have values, in the order of the header, others after them."""
        found = {name: None for record in self.records for name in record.values}
        known = [name for name in self.header.series if name in found]
        return (*known, *(name for name in found if name not in self.header.series))

    def described(self, name: str) -> Series:
        """What a series is."""
        return self.header.series.get(name) or Series(name.replace("_", " ").capitalize())

    def series(self, name: str) -> tuple[list[int], list[float]]:
        """Steps and values of one series.

        >>> log = WatchLog(Header("", "Net", 1, "SGD", 0.1, "auto", 0.1), [Record(3, 0.0, {"loss": 0.5})])
        >>> log.series("loss")
        ([3], [0.5])
        """
        points = [(record.step, record.values[name]) for record in self.records if name in record.values]
        return [step for step, _ in points], [value for _, value in points]

    def layers(self, name: str) -> dict[str, tuple[list[int], list[float]]]:
        """Steps and values of one series by layer."""
        found: dict[str, tuple[list[int], list[float]]] = {}
        for record in self.records:
            for layer, value in record.layers.get(name, {}).items():
                steps, values = found.setdefault(layer, ([], []))
                steps.append(record.step)
                values.append(value)
        return found

    @property
    def layered(self) -> tuple[str, ...]:
        """Names of the series that are known by layer."""
        return tuple({name: None for record in self.records for name in record.layers})


class LogReader:
    """Reads what has been added to a log since the last time; the file need not exist yet.

    A line without its end is left for the next time: it is still being written, or the run was killed while writing it.

    Args:
        place: The run's folder or its file.

    Attributes:
        path: The file.
        log: What was read so far; None before there is a header.
    """

    def __init__(self, place: str | Path) -> None:
        place = Path(place)
        self.path = place if place.suffix == ".jsonl" else place / FILE_NAME
        self.log: WatchLog | None = None
        self._offset = 0
        self._lines = 0

    def read(self) -> bool:
        """Read on.

        Returns:
            Whether there was anything new.

        Raises:
            FormatError: The file cannot be read, begins with something else, or is of a newer version.
        """
        try:
            if not self.path.exists():
                return False
            with self.path.open("rb") as file:
                if file.seek(0, 2) < self._offset:  # replaced by a shorter one
                    self._offset, self._lines, self.log = 0, 0, None
                file.seek(self._offset)
                added = file.read()
        except OSError as error:
            raise FormatError(
                "The log of a watched run must be readable", f"{self.path}: {error.strerror}", _FIX
            ) from None
        whole = added[: added.rfind(b"\n") + 1]
        for line in whole.splitlines():
            if line.strip():
                self._take(line)
        self._offset += len(whole)
        return bool(whole)

    def _take(self, line: bytes) -> None:
        self._lines += 1
        try:
            kind, body = _entry(line)
            self._add(kind, body)
        except _Newer as error:
            raise FormatError(
                f"{self.path} must have version {VERSION} or older",
                f"version {error.args[0]}",
                "Read it with a newer torchstone.",
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            if self.log is None:
                raise FormatError(
                    f"{self.path} must be the log of a watched run",
                    f"line {self._lines} is something else ({type(error).__name__})",
                    _FIX,
                ) from None
            self.log.damaged += 1

    def _add(self, kind: str, body: Mapping[str, Any]) -> None:
        if kind == "header":
            self.log = _begun(_header(body), self.log)
        elif self.log is None:
            raise ValueError(kind)
        elif kind == "record":
            record = record_of(body)
            before = self.log.seconds_before
            self.log.records.append(replace(record, seconds=record.seconds + before) if before else record)
        elif kind == "alert":
            self.log.alerts.append(alert_of(body))
        elif kind == "summary":
            self.log.summary = dict(body)
        # Other kinds of lines are from a newer writer of the same version: left alone.


def _begun(header: Header, before: WatchLog | None) -> WatchLog:
    """A log that begins, with the steps that a resumed run had taken before."""
    if header.resumed <= 0 or before is None:
        return WatchLog(header)
    records = [record for record in before.records if record.step <= header.resumed]
    alerts = [alert for alert in before.alerts if alert.step <= header.resumed]
    header = replace(header, series={**before.header.series, **header.series})
    seconds = records[-1].seconds if records else 0.0
    return WatchLog(header, records, alerts, damaged=before.damaged, seconds_before=seconds)


class _Newer(Exception):
    """A log of a newer version."""


def _entry(line: bytes) -> tuple[str, Mapping[str, Any]]:
    entry = json.loads(line)
    ((kind, body),) = entry.items()
    if not isinstance(body, Mapping):
        raise TypeError(type(body).__name__)
    return kind, body


def _header(body: Mapping[str, Any]) -> Header:
    version = body.get("version", VERSION)
    if isinstance(version, int) and version > VERSION:
        raise _Newer(version)
    return header_of(body)


def latest(values: list[float]) -> float:
    """The last one that is a number; NaN where there is none."""
    return next((value for value in reversed(values) if not math.isnan(value)), math.nan)
