"""The probes of a quadrature that are done, on disk too where a file is named."""

from __future__ import annotations

import os

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.errors import SettingError
from torchstone.linalg.checkpoint import Checkpoint
from torchstone.linalg.lanczos_columns import Tridiagonal
from torchstone.linalg.linear_map import LinearMap


class FinishedRuns:
    """Lanczos coefficients of one probe after another.

    Args:
        path: The file; None for memory only. What an earlier run with the same settings left there is taken over.
        A: The map.
        settings: What else identifies the run.

    Attributes:
        runs: Of the probes that are done, in their order.

    Raises:
        FormatError: A damaged file.
        SettingError: A file of a run with other settings.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None, A: LinearMap, settings: dict[str, str | int]
    ) -> None:
        self.runs: list[Tridiagonal] = []
        self._file = None
        if path is not None:
            self._file = Checkpoint(path, {"n": A.shape[0], "dtype": str(A.dtype), **settings})
            state = self._file.load()
            if state is not None:
                lengths = state["lengths"].tolist()
                diagonal = state["diagonal"].split(lengths)
                beside = state["off_diagonal"].split([length - 1 for length in lengths])
                complete = state["complete"].tolist()
                self.runs = [Tridiagonal(*run) for run in zip(diagonal, beside, complete, strict=True)]

    def require_of(self, A: LinearMap, start: Float[Tensor, " n"]) -> None:
        """Refuse runs of another map, going by the first probe's Rayleigh quotient. Cost: one product.

        Raises:
            SettingError: They are.
        """
        image = A.matvec(start).detach().double()
        length = float(start.double().norm())
        gap = abs(float(start.double() @ image) / length**2 - float(self.runs[0].diagonal[0]))
        if gap > torch.finfo(A.dtype).eps ** 0.5 * float(image.norm()) / length:
            assert self._file is not None
            raise SettingError(
                f"The checkpoint {self._file.path} must be of this map",
                f"a quadratic form that differs by {gap:.2g}",
                "Delete it to start again, or name another file.",
            )

    def add(self, runs: list[Tridiagonal]) -> None:
        """Further probes; the file is written if it is time for it.

        Raises:
            OutputError: The file cannot be written.
        """
        self.runs += runs
        if self._file is not None:
            self._file.save(self._state)

    def _state(self) -> dict[str, Tensor]:
        return {
            "diagonal": torch.cat([run.diagonal for run in self.runs]),
            "off_diagonal": torch.cat([run.off_diagonal for run in self.runs]),
            "lengths": torch.tensor([len(run.diagonal) for run in self.runs]),
            "complete": torch.tensor([run.breakdown for run in self.runs]),
        }

    def remove(self) -> None:
        """All are done: delete the file."""
        if self._file is not None:
            self._file.remove()
