"""What the Gauss-Newton matrix leaves of the Hessian's trace: computed where it is small, estimated where not."""

from __future__ import annotations

import math
import os
from collections.abc import Container

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.linalg import draw_probes
from torchstone.linalg.finished_work import FinishedWork
from torchstone.operators.gauss_newton import GaussNewton
from torchstone.operators.hessian import Hessian
from torchstone.specimen import Specimen


class Remainder:
    """Traces of the blocks of H - G in some parameters (of H in those without a Gauss-Newton part).

    Args:
        specimen: What is examined.
        split: Part of the data.
        names: The parameters.
        missing: Those of them without a Gauss-Newton part.
        memory_bytes: For kept graphs.

    Attributes:
        samples: Unbiased estimates by probe and parameter (m, names), in float64; one exact row after `compute`.
        probes: Random probes drawn; 0 after `compute`.
    """

    def __init__(
        self,
        specimen: Specimen,
        split: str,
        names: list[str],
        missing: Container[str],
        memory_bytes: int,
    ) -> None:
        self.names = names
        self.subtracted = [name for name in names if name not in missing]
        share = memory_bytes // (2 if self.subtracted else 1)
        self.hessian = Hessian(specimen, split, names, memory_bytes=share)
        self.gauss_newton = (
            GaussNewton(specimen, split, names, memory_bytes=share) if self.subtracted else None
        )
        self.samples = torch.zeros(0, len(names), dtype=torch.float64)
        self.probes = 0

    @property
    def size(self) -> int:
        """Entries of the parameters in question."""
        return self.hessian.shape[0]

    @property
    def total(self) -> float:
        """The remainder's trace."""
        return float(self.samples.mean(0).sum())

    @property
    def exact(self) -> bool:
        """Whether `compute` was called, and what it multiplied with is right to rounding."""
        maps = (self.hessian, self.gauss_newton)
        return not self.probes and all(one.certain for one in maps if one is not None)

    def variances(self) -> list[float]:
        """Variance of each parameter's mean, in the order of the names, and of their sum."""
        if not self.probes:
            return [0.0] * (len(self.names) + 1)
        columns = torch.cat([self.samples, self.samples.sum(1, keepdim=True)], dim=1)
        return (columns.var(0) / self.probes).tolist()

    def compute(self, checkpoint: str | os.PathLike[str] | None = None) -> None:
        """The exact traces, from one product an entry; those that are done are kept in the file."""
        eye = torch.eye(self.size, dtype=self.hessian.dtype, device=self.hessian.device)
        with self._finished(checkpoint, None) as finished:
            blocks = [finished(block.T, self._forms) for block in eye.split(32)]
        self.samples = torch.cat(blocks).sum(0, keepdim=True)

    def estimate(
        self,
        known: float,
        variance: float,
        tolerance: float,
        min_probes: int,
        max_probes: int,
        generator: torch.Generator,
        checkpoint: str | os.PathLike[str] | None = None,
        block: int = 5,
    ) -> bool:
        """Add probes until the whole trace is precise enough, or there are too many.

        Args:
            known: The trace's other part.
            variance: Of that part.
            tolerance: Standard error to reach, relative to the whole.
            min_probes: At least this many.
            max_probes: At most this many.
            generator: Draws them.
            checkpoint: File for the finished probes.
            block: Probes at once.

        Returns:
            Whether it is precise enough.
        """
        counts = {"least": min_probes, "most": max_probes, "block": block}
        with self._finished(checkpoint, generator, **counts) as finished:
            while True:
                target = min_probes if self.probes < min_probes else max_probes
                X = draw_probes(self.hessian, min(block, target - self.probes), generator, "rademacher")
                self.samples = torch.cat([self.samples, finished(X, self._forms)])
                self.probes = len(self.samples)
                if self.probes < min_probes:
                    continue
                error = math.sqrt(variance + self.variances()[-1])
                precise = error <= tolerance * abs(known + self.total)
                if precise or self.probes >= max_probes:
                    return precise

    def _finished(
        self,
        checkpoint: str | os.PathLike[str] | None,
        generator: torch.Generator | None,
        **settings: int,
    ) -> FinishedWork:
        names = " ".join(self.names)
        return FinishedWork.of(
            checkpoint, "hessian_trace", self.hessian, generator, parameters=names, **settings
        )

    def _forms(self, X: Float[Tensor, "n k"]) -> Float[Tensor, "k names"]:
        """x_p^T (R x)_p of every column x and parameter p; their means over probes are the traces of the blocks R_pp."""
        curved = self.hessian.matmat(X)
        flat = self.gauss_newton.matmat(X) if self.gauss_newton is not None else None
        rows = []
        for name, part in self.hessian.space.slices.items():
            product = curved[part].double()
            if flat is not None and name in self.subtracted:
                product = product - flat[part].double()
            rows.append((X[part].double() * product).sum(0))
        return torch.stack(rows, dim=1).cpu()
