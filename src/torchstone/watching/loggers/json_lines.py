"""One JSON object a line, on disk as soon as it is known: the default log."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torchstone.errors import OutputError
from torchstone.watching.record import Alert, Header, Record, plain
from torchstone.writing import append_line, make_folder

FILE_NAME = "watch.jsonl"


class JsonLines:
    """Appends to `watch.jsonl` in a folder; a crash of the run costs at most the line being written.

    A run that starts in a folder with a log of its own begins a new header there: readers take the last one, after what came
    before it where that run was resumed. Two runs at once cannot share a folder: the first is told that the second has begun.

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
        self._size: int | None = None
        make_folder(self.path.parent)

    def start(self, header: Header) -> None:
        """The first line, apart from one that a killed run has left unfinished."""
        if self.path.exists() and not _ends_whole(self.path):
            append_line(self.path, "")
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
        line = json.dumps({kind: body}, allow_nan=False, default=str)
        if self._size is not None and self.path.exists() and self.path.stat().st_size != self._size:
            raise OutputError(
                f"{self.path} must be written by one run at a time",
                "lines that are not of this run",
                "Give each run a folder of its own.",
            )
        try:
            append_line(self.path, line, wait=wait)
        except OutputError as error:
            fix = "Free space or pass another folder; what was written before is kept."
            raise OutputError(error.expected, error.got, fix) from None
        self._size = self.path.stat().st_size
        self._waited = now if wait else self._waited


def _ends_whole(path: Path) -> bool:
    """Whether a file is empty or ends with the end of a line."""
    with path.open("rb") as file:
        if file.seek(0, 2) == 0:
            return True
        file.seek(-1, 2)
        return file.read(1) == b"\n"


def _finite(value: Any) -> Any:
    """With null for numbers that are not finite, at any depth."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
