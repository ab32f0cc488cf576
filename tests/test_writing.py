"""Files are replaced or extended whole, or not at all."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from torchstone.errors import OutputError
from torchstone.writing import append_line, make_folder, write_atomically


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_any_text_can_be_written(tmp_path: Path) -> None:
    """Also lone surrogates, which file names and broken labels hold and UTF-8 does not."""
    write_atomically(tmp_path / "a", "é\u2028 \ud800 名")
    assert (tmp_path / "a").read_text(encoding="utf-8") == "é\u2028 \\ud800 名"


def test_an_interrupted_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(descriptor: int) -> None:
        raise KeyboardInterrupt

    write_atomically(tmp_path / "a", "old")
    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old"
    assert entries(tmp_path) == ["a"]


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from torchstone.errors import OutputError
from torchstone.writing import append_line, write_atomically
path = Path(sys.argv[1])
append_line(path, "first")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
for call in (append_line, write_atomically):
    try:
        call(path, "x" * 100_000)
    except OutputError as error:
        print(error)
append_line(path, "second")
"""


def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    """The kernel writes the first 4096 bytes and refuses the rest, as a full disk does."""
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, tmp_path / "a"], check=True, capture_output=True, text=True
    )
    assert done.stdout.count("File too large. Free space or choose another folder") == 2
    assert (tmp_path / "a").read_text() == "first\nsecond\n"
    assert entries(tmp_path) == ["a"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux only")
def test_a_full_device() -> None:
    with pytest.raises(OutputError, match=r"/dev/full must be writable; got No space left on device\."):
        append_line(Path("/dev/full"), "line")


def test_folders(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert entries(tmp_path / "a" / "b") == []
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="must be writable; got File exists"):
        make_folder(tmp_path / "file")


def test_a_folder_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By patching, because tests may run as a user who may write anywhere."""

    def refused(self: Path, data: bytes) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "write_bytes", refused)
    with pytest.raises(OutputError, match=r"must be writable; got Permission denied\..*--output"):
        make_folder(tmp_path)
    assert entries(tmp_path) == []
