"""The state of a long run on disk, so that it goes on after a kill and never from another run's state."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from torchstone.errors import FormatError, OutputError, SettingError

Settings = dict[str, str | int | float | bool]

_SHARE = 0.05  # of the time may go into saving
KEY = "torchstone run"
_TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class Pace:
    """When it is time to wait for the disk again, so that waiting takes about 5% of the run."""

    def __init__(self) -> None:
        self._start = self._next = 0.0

    def due(self) -> bool:
        """Whether it is; `done` is then called afterwards."""
        self._start = time.monotonic()
        return self._start >= self._next

    def done(self) -> None:
        """The waiting that was due is over."""
        end = time.monotonic()
        self._next = end + (end - self._start) / _SHARE


class Checkpoint:
    """Tensors of a run in one safetensors file, replaced atomically.

    Saves are spaced so that they take about 5% of the run's time. The file carries the run's settings; one with others
    is refused, never mixed in.

    Args:
        path: The file; its folder must exist.
        settings: What identifies the run: plain values by name.
    """

    def __init__(self, path: str | os.PathLike[str], settings: Settings) -> None:
        self.path, self.settings = Path(path), settings
        self._pace = Pace()

    def save(self, state: dict[str, Tensor] | Callable[[], dict[str, Tensor]]) -> None:
        """Write the state, or what the function makes, if it is time for it.

        Raises:
            OutputError: The file cannot be written; the last one stays.
        """
        if not self._pace.due():
            return
        state = state() if callable(state) else state
        temporary = self.path.with_name(f".{self.path.name}.part")
        try:
            with temporary.open("wb") as file:
                _write_tensors(
                    file, state, {KEY: json.dumps(self.settings, default=lambda number: number.item())}
                )
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink()
            raise cannot_write(self.path, error) from None
        self._pace.done()

    def load(self) -> dict[str, Tensor] | None:
        """The state saved, on the CPU; None where there is no file.

        Raises:
            FormatError: A file that is damaged or no checkpoint.
            SettingError: A checkpoint of a run with other settings.
        """
        if not self.path.exists():
            return None
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, framework="pt") as file:
                found = json.loads((file.metadata() or {})[KEY])
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, KeyError, ValueError, OSError) as error:
            raise FormatError(
                f"{self.path} must be a whole checkpoint",
                f"{type(error).__name__}: {error}",
                "Delete it to start again.",
            ) from None
        require_same_run(self.path, self.settings, found)
        return state

    def remove(self) -> None:
        """Delete the file: the run is finished."""
        with suppress(FileNotFoundError):
            self.path.unlink()


def digest(tensor: Tensor) -> str:
    """A short fingerprint of a tensor's bits, such as a generator's state."""
    return hashlib.sha256(bytes_of(tensor.detach().cpu().contiguous())).hexdigest()[:16]


def bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor on the CPU."""
    numbers: Any = tensor.reshape(-1).view(torch.uint8).numpy()
    return memoryview(numbers)


def require_same_run(path: Path, settings: Settings, found: Settings) -> None:
    """Refuse the file of a run with other settings.

    Raises:
        SettingError: Naming those that differ.
    """
    names = sorted(settings.keys() | found.keys())
    differing = [name for name in names if settings.get(name) != found.get(name)]
    if differing:
        raise SettingError(
            f"The checkpoint {path} must be of this run ({_listed(settings, differing)})",
            f"one of another ({_listed(found, differing)})",
            "Delete it to start again, or name another file.",
        )


def cannot_write(path: Path, error: OSError) -> OutputError:
    """What to raise where a checkpoint cannot be written."""
    return OutputError(
        f"The checkpoint {path} must be writable",
        error.strerror or type(error).__name__,
        "Free space, or name a file in a folder that exists and can be written to.",
    )


def _write_tensors(file: BinaryIO, state: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file one tensor after another.

    The library's own function writes to a file of another name first, of which each kill would leave one behind, or
    makes all contents in memory.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, tensor in plain.items():
        start, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": _TYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for tensor in plain.values():
        file.write(bytes_of(tensor))


def _listed(settings: Settings, names: list[str]) -> str:
    return ", ".join(f"{name}={settings.get(name, 'absent')}" for name in names)
