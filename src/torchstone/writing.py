"""Files that are never half-written: replaced atomically, or appended a whole line at a time."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from torchstone.errors import OutputError


def write_atomically(path: Path, text: str) -> None:
    """Replace a file's contents in one step; on failure the old contents stay.

    Raises:
        OutputError: The folder is not writable, or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    done = False
    try:
        with temporary.open("wb") as file:
            file.write(text.encode("utf-8", errors="backslashreplace"))  # lone surrogates have no UTF-8
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        done = True
    except OSError as error:
        raise _cannot_write(path, error) from None
    finally:
        if not done:  # also when interrupted
            with suppress(OSError):
                temporary.unlink()


def append_line(path: Path, line: str, *, wait: bool = True) -> None:
    """Append one line and wait until it is on disk; on failure the file keeps only whole lines.

    Args:
        path: The file.
        line: The line, without its end.
        wait: Without waiting, the line outlives the process but not the machine.

    Raises:
        OutputError: The folder is not writable, or the disk is full.
    """
    size = path.stat().st_size if path.exists() else 0
    try:
        with path.open("ab") as file:
            file.write(line.encode("utf-8") + b"\n")
            file.flush()
            if wait:
                os.fsync(file.fileno())
    except OSError as error:
        with suppress(OSError):
            os.truncate(path, size)
        raise _cannot_write(path, error) from None


def make_folder(path: Path) -> None:
    """Create a folder and prove that it can be written to.

    Raises:
        OutputError: It cannot.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".probe.{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise _cannot_write(path, error) from None


def _cannot_write(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{path} must be writable",
        error.strerror or type(error).__name__,
        "Free space or choose another folder with --output; what was finished before is kept and will be resumed.",
    )
