"""The state of a long run on disk, so that it goes on after a kill and never from another run's state."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from torchstone.errors import FormatError, OutputError, SettingError

_SHARE = 0.05  # of the time may go into saving
_KEY = "torchstone run"


class Checkpoint:
    """Tensors of a run in one safetensors file, replaced atomically.

    Saves are spaced so that they take about 5% of the run's time. The file carries the run's settings; one with others
    is refused, never mixed in.

    Args:
        path: The file; its folder must exist.
        settings: What identifies the run: plain values by name.
    """

    def __init__(self, path: str | os.PathLike[str], settings: dict[str, str | int | float | bool]) -> None:
        self.path, self.settings = Path(path), settings
        self._next = 0.0

    def save(self, state: dict[str, Tensor] | Callable[[], dict[str, Tensor]]) -> None:
        """Write the state, or what the function makes, if it is time for it.

        Raises:
            OutputError: The file cannot be written; the last one stays.
        """
        from safetensors.torch import save

        start = time.monotonic()  # importing happens once and says nothing of the next save
        if start < self._next:
            return
        state = state() if callable(state) else state
        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
        contents = save(whole, {_KEY: json.dumps(self.settings)})
        temporary = self.path.with_name(f".{self.path.name}.part")
        try:
            with temporary.open("wb") as file:
                file.write(contents)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink()
            raise OutputError(
                f"The checkpoint {self.path} must be writable",
                error.strerror or type(error).__name__,
                "Free space, or name a file in a folder that exists and can be written to.",
            ) from None
        end = time.monotonic()
        self._next = end + (end - start) / _SHARE

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
                found = json.loads((file.metadata() or {})[_KEY])
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, KeyError, ValueError, OSError) as error:
            raise FormatError(
                f"{self.path} must be a whole checkpoint",
                f"{type(error).__name__}: {error}",
                "Delete it to start again.",
            ) from None
        names = sorted(self.settings.keys() | found.keys())
        differing = [name for name in names if self.settings.get(name) != found.get(name)]
        if differing:
            raise SettingError(
                f"The checkpoint {self.path} must be of this run ({_listed(self.settings, differing)})",
                f"one of another ({_listed(found, differing)})",
                "Delete it to start again, or name another file.",
            )
        return state

    def remove(self) -> None:
        """Delete the file: the run is finished."""
        with suppress(FileNotFoundError):
            self.path.unlink()


def digest(tensor: Tensor) -> str:
    """A short fingerprint of a tensor's bits, such as a generator's state."""
    return hashlib.sha256(
        tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    ).hexdigest()[:16]


def _listed(settings: dict[str, str | int | float | bool], names: list[str]) -> str:
    return ", ".join(f"{name}={settings.get(name, 'absent')}" for name in names)
