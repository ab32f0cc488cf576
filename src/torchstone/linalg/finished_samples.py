"""The samples that probes gave, on disk too where a file is named."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.errors import SettingError
from torchstone.linalg.checkpoint import Checkpoint, digest


class FinishedSamples:
    """Samples of one block of probes after another. A resumed run draws its probes again and multiplies only new ones.

    Args:
        path: The file; None for memory only. What an earlier run with the same settings left there is taken over.
        generator: As it stands before the first probe.
        settings: What else identifies the run, the map's size and type included.

    Raises:
        FormatError: A damaged file.
        SettingError: A file of a run with other settings.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        generator: torch.Generator,
        settings: dict[str, str | int | float],
    ) -> None:
        self._file, self._position = None, 0
        self._samples: Tensor | None = None
        if path is not None:
            self._file = Checkpoint(path, {"seed": digest(generator.get_state()), **settings})
            state = self._file.load()
            self._samples = None if state is None else state["samples"]

    def __call__(
        self, X: Float[Tensor, "n k"], measure: Callable[[Float[Tensor, "n k"]], Float[Tensor, "k ..."]]
    ) -> Float[Tensor, "k ..."]:
        """measure(X), or what it gave in the earlier run.

        Cost: that of `measure`; for the first block of a resumed run that of one column, to see that the map is the same.

        Raises:
            SettingError: It is another one.
            OutputError: The file cannot be written.
        """
        start, end = self._position, self._position + X.shape[1]
        self._position = end
        if self._samples is not None and end <= len(self._samples):
            if start == 0:
                self._require_like(measure(X[:, :1]), X.dtype)
            return self._samples[start:end]
        fresh = measure(X)
        self._samples = fresh if self._samples is None else torch.cat([self._samples[:start], fresh])
        if self._file is not None:
            self._file.save({"samples": self._samples})
        return fresh

    def remove(self) -> None:
        """All are done: delete the file."""
        if self._file is not None:
            self._file.remove()

    def _require_like(self, first: Tensor, dtype: torch.dtype) -> None:
        assert self._samples is not None
        assert self._file is not None
        gap = float((first[0] - self._samples[0]).abs().max())
        if not gap <= torch.finfo(dtype).eps ** 0.5 * float(self._samples.abs().max()):
            raise SettingError(
                f"The checkpoint {self._file.path} must be of this map",
                f"a quadratic form that differs by {gap:.2g}",
                "Delete it to start again, or name another file.",
            )
