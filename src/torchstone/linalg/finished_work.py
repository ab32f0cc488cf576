"""What a long run has computed, in a file that grows: the run started again takes it from there."""

from __future__ import annotations

import io
import json
import math
import os
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.errors import FormatError, SettingError
from torchstone.linalg.checkpoint import KEY, Pace, Settings, bytes_of, cannot_write, digest, require_same_run
from torchstone.linalg.linear_map import LinearMap
from torchstone.linalg.sampling import require_generator

_DTYPES = {"float32": torch.float32, "float64": torch.float64}
_LONGEST = 2**20  # bytes of a line; in another kind of file the first end of a line may be far away


class _Entry(NamedTuple):
    """Where an answer stands in the file and what it answers."""

    start: int
    data: int
    question: str
    answer: str
    shape: tuple[int, ...]
    dtype: str
    by_column: bool


class FinishedWork:
    """Answers of a deterministic run, which asks for the same ones in the same order when it is started again.

    Each is added to the end of the file with a digest of what it answers and one of its own bits, so nothing is written
    twice and nothing is kept in memory. A last one that a kill cut short, or a damaged one, is computed again with what
    follows. As a context manager it deletes the file where the block ends without an exception.

    Cost: writing an answer, and hashing it and its question; waiting for the disk takes at most 5% of the time.

    Args:
        path: The file; None keeps nothing.
        settings: What identifies the run: plain values by name.

    Raises:
        FormatError: The file is none of ours.
        SettingError: A file of a run with other settings.
        OutputError: The file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str] | None, settings: Settings) -> None:
        self.path = None if path is None else Path(path)
        self._entries: list[_Entry] = []
        self._position, self._end, self._pace = 0, 0, Pace()
        if self.path is not None:
            self._file = _opened(self.path)
            # Held open, so that of several processes with one file the first to end may delete it.
            weakref.finalize(self, self._file.close)
            self._entries, self._end = _found(self.path, settings)
            self._file.truncate(self._end)  # what is not whole
            if not self._entries:
                head = json.dumps({KEY: settings}, default=lambda number: number.item())
                self._write(head.encode() + b"\n")

    @classmethod
    def of(
        cls,
        path: str | os.PathLike[str] | None,
        routine: str,
        A: LinearMap,
        generator: torch.Generator | None,
        **settings: str | int | float,
    ) -> Self:
        """That of a routine on a map, with the generator as it stands before the first draw."""
        if generator is not None:
            require_generator(generator)
        seed = {} if generator is None else {"seed": digest(generator.get_state())}
        return cls(path, {"routine": routine, "n": A.shape[0], "dtype": str(A.dtype), **seed, **settings})

    def __call__(
        self,
        X: Float[Tensor, "n k"],
        measure: Callable[[Float[Tensor, "n k"]], Float[Tensor, "k ..."]],
        kind: str = "",
    ) -> Float[Tensor, "k ..."]:
        """measure(X), or what it gave in the earlier run, on the CPU.

        Cost: that of `measure`; for the first one of a resumed run that of one column, to see that the map is the same.

        Args:
            X: Columns.
            measure: Gives numbers for each column.
            kind: Tells apart what else may be asked of the same columns.

        Raises:
            SettingError: The earlier run asked something else, or had another answer.
            OutputError: The file cannot be written.
        """
        if self.path is None:
            return measure(X)
        question = kind + digest(X.T)
        if self._position < len(self._entries):
            answer = self._read(self._entries[self._position], question)
            if answer is not None:
                if self._position == 0:
                    self._require_like(answer, X, measure)
                self._position += 1
                return answer
            self._end = self._entries[self._position].start
            self._entries = self._entries[: self._position]
            self._file.truncate(self._end)
        answer = measure(X).detach()
        by_column = answer.ndim == 2 and answer.T.is_contiguous() and not answer.is_contiguous()
        answer = _plain(answer.T if by_column else answer)
        self._append(question, answer.cpu(), by_column)
        return answer.T if by_column else answer

    def by_block(
        self,
        X: Float[Tensor, "n k"],
        measure: Callable[[Float[Tensor, "n k"]], Float[Tensor, "k ..."]],
        block: int = 10,
    ) -> Float[Tensor, "k ..."]:
        """measure(X), some columns at a time where it is kept, so that a kill loses no more than those."""
        if self.path is None or X.shape[1] <= block:
            return self(X, measure)
        return torch.cat([self(columns, measure) for columns in X.split(block, dim=1)])

    def remove(self) -> None:
        """All is done: delete the file."""
        if self.path is not None:
            with suppress(FileNotFoundError):
                self.path.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if kind is None:
            self.remove()

    def _read(self, entry: _Entry, question: str) -> Tensor | None:
        """An answer; None where its bits are not those that were written."""
        if entry.question != question:
            raise SettingError(
                f"The checkpoint {self.path} must be of this run",
                f"one that differs from product {self._position + 1} on",
                "Start it with the arguments, the seed and the number of threads it had, or delete the file to start "
                "again.",
            )
        answer = torch.empty(entry.shape, dtype=_DTYPES[entry.dtype])
        self._file.seek(entry.data)
        left = bytes_of(answer)
        while len(left) and (count := self._file.readinto(left)):
            left = left[count:]
        if digest(answer) != entry.answer:
            return None
        return answer.T if entry.by_column else answer

    def _append(self, question: str, answer: Tensor, by_column: bool) -> None:
        says = {
            "question": question,
            "answer": digest(answer),
            "shape": list(answer.shape),
            "dtype": str(answer.dtype).removeprefix("torch."),
            "by_column": by_column,
        }
        self._write(json.dumps(says).encode() + b"\n", bytes_of(answer))

    def _write(self, *parts: bytes | memoryview) -> None:
        assert self.path is not None
        try:
            self._file.seek(self._end)
            for part in parts:
                left = memoryview(part)
                while len(left):  # more than 2 GB go in several writes
                    left = left[self._file.write(left) :]
            if self._pace.due():
                os.fsync(self._file.fileno())
                self._pace.done()
            self._end = self._file.tell()
        except OSError as error:
            with suppress(OSError):  # nothing half-written stays
                self._file.truncate(self._end)
            raise cannot_write(self.path, error) from None

    def _require_like(self, then: Tensor, X: Tensor, measure: Callable[[Tensor], Tensor]) -> None:
        enough, gap = torch.finfo(then.dtype).eps ** 0.5 * float(then.abs().max()), 0.0
        for count in (1, X.shape[1]):  # networks of low precision may round one column by itself otherwise
            gap = float((measure(X[:, :count]).detach().cpu() - then[:count]).abs().max())
            if gap <= enough:
                return
        raise SettingError(
            f"The checkpoint {self.path} must be of this map",
            f"a first product that differs by {gap:.2g}",
            "Delete it to start again, or name another file.",
        )


def _opened(path: Path) -> io.FileIO:
    try:
        if not path.exists():
            path.touch()
        return path.open("r+b", buffering=0)
    except OSError as error:
        raise cannot_write(path, error) from None


def _found(path: Path, settings: Settings) -> tuple[list[_Entry], int]:
    """The whole entries of a file, and where they end; one without any is nobody's."""
    entries, end = [], 0
    with path.open("rb") as file:
        head = file.readline(_LONGEST)
        if not head:
            return [], 0
        try:
            found = json.loads(head)[KEY]
        except (ValueError, KeyError, TypeError) as error:
            raise FormatError(
                f"{path} must be a whole checkpoint",
                f"{type(error).__name__}: {error}",
                "Delete it to start again.",
            ) from None
        while (entry := _next_entry(file)) is not None:
            entries.append(entry)
            end = file.tell()
    if entries:
        require_same_run(path, settings, found)
    return entries, end


def _next_entry(file: BinaryIO) -> _Entry | None:
    """What the next line announces; None at the end of the file, or of what is whole."""
    start = file.tell()
    try:
        says = json.loads(file.readline(_LONGEST))
        shape, dtype = tuple(map(int, says["shape"])), says["dtype"]
        size = math.prod(shape) * _DTYPES[dtype].itemsize
        data = file.tell()
        if min(shape) < 1 or file.seek(0, os.SEEK_END) < data + size:
            return None
        file.seek(data + size)
        return _Entry(start, data, says["question"], says["answer"], shape, dtype, says["by_column"])
    except (ValueError, KeyError, TypeError):
        return None


def _plain(tensor: Tensor) -> Tensor:
    """The tensor with the strides that one read from a file has, of which rounding in later products may depend."""
    return tensor.contiguous().view(-1).view(tensor.shape)
