"""One JSON object a line, on disk as soon as it is known: the default log."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torchstone.watching.record import Alert, Header, Record, plain
from torchstone.writing import append_line, make_folder

FILE_NAME = "watch.jsonl"


class JsonLines:
    """Appends to `watch.jsonl` in a folder; a crash costs at most the line being written.

    A run that starts in a folder with a log of its own begins a new header there: readers take the last one.

    Args:
        folder: Made if missing.

    Raises:
        OutputError: The folder cannot be written to.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / FILE_NAME
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
        append_line(self.path, json.dumps({kind: body}, allow_nan=False, default=str))


def _finite(value: Any) -> Any:
    """With null for numbers that are not finite, at any depth."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
