"""One JSON object a line, on disk as soon as it is known: the default log."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torchstone.watching.record import Alert, Header, Record, plain
from torchstone.writing import append_line, make_folder

FILE_NAME = "watch.jsonl"


class JsonLines:
    """Appends to `watch.jsonl` in a folder; a crash of the run costs at most the line being written.

    A run that starts in a folder with a log of its own begins a new header there: readers take the last one.

    Args:
        folder: Made if missing.
        safe_seconds: What a crash of the whole machine may cost of the records. Waiting for the disk takes longer than
            most measurements, so it is not done for each of them.

    Raises:
        OutputError: The folder cannot be written to.
    """

    def __init__(self, folder: str | Path, *, safe_seconds: float = 5.0) -> None:
        self.path = Path(folder) / FILE_NAME
        self._safe_seconds, self._waited = safe_seconds, -math.inf
        make_folder(self.path.parent)

    def start(self, header: Header) -> None:
        """The first line."""
        self._line("header", plain(header))

    def record(self, record: Record) -> None:
        """A line."""
        self._line("record", plain(record))

    def alert(self, alert: Alert) -> None:
        """A line."""
        self._line("alert", plain(alert))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """The last line."""
        self._line("summary", _finite(dict(summary)))

    def _line(self, kind: str, body: Mapping[str, Any]) -> None:
        now = time.monotonic()
        wait = kind != "record" or now - self._waited >= self._safe_seconds
        append_line(self.path, json.dumps({kind: body}, allow_nan=False, default=str), wait=wait)
        self._waited = now if wait else self._waited


def _finite(value: Any) -> Any:
    """With null for numbers that are not finite, at any depth."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
