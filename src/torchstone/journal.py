"""The journal of a running examination: one line a finished reading, so that a killed run resumes.

The first line identifies what is examined; readings of anything else are never mixed in. A torn last line (the
process died while writing) is dropped.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torchstone.errors import FormatError, OutputError
from torchstone.reading import Reading
from torchstone.serialise import from_plain, to_plain
from torchstone.writing import append_line, write_atomically

FILE_NAME = "journal.jsonl"


class Journal:
    """Finished readings on disk.

    Args:
        folder: The examination's output folder.
        fingerprint: Identity of specimen, plan and seed.
        fresh: Start again, whatever is there.

    Raises:
        OutputError: The folder holds another examination, or its journal cannot be read, and `fresh` was not asked for.
    """

    def __init__(self, folder: Path, fingerprint: str, *, fresh: bool = False) -> None:
        self.path, self.fingerprint = folder / FILE_NAME, fingerprint
        self.readings: dict[str, Reading] = {}
        self.seconds = 0.0
        lines = [] if fresh else self._whole_lines()
        if lines and lines[0].get("fingerprint") != fingerprint:
            raise _not_ours(folder, "a journal of another one")
        for line in lines[1:]:
            reading = self._reading(line)
            if reading is not None:
                self.readings[reading.id] = reading
                self.seconds = max(self.seconds, float(line["seconds"]))
        # Written anew, so that a torn or unreadable line is gone before anything is appended.
        kept = [{"journal": 1, "fingerprint": fingerprint}]
        kept += [line for line in lines[1:] if self._reading(line) is not None]
        write_atomically(self.path, "".join(json.dumps(line, allow_nan=False) + "\n" for line in kept))

    def add(self, reading: Reading, seconds: float) -> None:
        """Put a finished reading on disk; `seconds` is the examination's time so far."""
        self.readings[reading.id] = reading
        line = {"reading": to_plain(reading), "seconds": round(seconds, 3)}
        append_line(self.path, json.dumps(line, allow_nan=False))

    def _whole_lines(self) -> list[dict[str, Any]]:
        try:
            texts = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _not_ours(self.path.parent, f"a journal that cannot be read ({error.strerror})") from None
        found = []
        for text in texts:
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                break
            if not isinstance(line, dict):
                break
            found.append(line)
        if texts and not found:  # the first line is written in one step, so this file is not a journal
            raise _not_ours(self.path.parent, f"a {FILE_NAME} that is no journal")
        return found

    @staticmethod
    def _reading(line: dict[str, Any]) -> Reading | None:
        try:
            float(line["seconds"])
            return from_plain(Reading, line["reading"])
        except (FormatError, KeyError, TypeError, ValueError):
            return None


def _not_ours(folder: Path, got: str) -> OutputError:
    return OutputError(
        f"{folder} must be empty or hold the same examination (network, data, recipe, plan, seed, version)",
        got,
        "Choose another folder with --output, or start again with --fresh.",
    )
