"""A plane through weight space, and what the losses on a grid of it say."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from torchstone.errors import SettingError
from torchstone.landscape.point import Point


@dataclass(frozen=True)
class Plane:
    """origin + a first + b second."""

    origin: Point
    first: Tensor
    second: Tensor

    def at(self, place: tuple[float, float]) -> Point:
        """The point with these coordinates (a, b)."""
        a, b = place
        return Point(self.origin.weights + a * self.first + b * self.second, self.origin.buffers)


@dataclass(frozen=True)
class GridLosses:
    """Risks on a grid: `risks[i, j]` at b = `second[i]` and a = `first[j]`, each evenly spaced.

    `rounding` is how far a risk may be off, relative to its size: `torch.finfo(dtype).eps` of the network's type.
    """

    first: tuple[float, ...]
    second: tuple[float, ...]
    risks: Tensor
    rounding: float = torch.finfo(torch.float64).eps

    def __post_init__(self) -> None:
        if self.risks.shape != (len(self.second), len(self.first)) or min(self.risks.shape) < 3:
            raise SettingError(
                f"risks must have shape ({len(self.second)}, {len(self.first)}), at least 3 x 3",
                f"{tuple(self.risks.shape)}",
                "Pass one risk a grid point.",
            )

    @classmethod
    def of(
        cls, first: list[float], second: list[float], risks: Tensor, dtype: torch.dtype = torch.float64
    ) -> GridLosses:
        """From risks in the order of `grid_places`, computed in `dtype`."""
        grid = risks.reshape(len(second), len(first))
        return cls(tuple(first), tuple(second), grid, torch.finfo(dtype).eps)

    @cached_property
    def minimum(self) -> tuple[float, float, float]:
        """Coordinates (a, b) of the lowest grid point, and its risk."""
        return self._extreme(self.risks.nan_to_num(torch.inf).argmin())

    @cached_property
    def maximum(self) -> tuple[float, float, float]:
        """Coordinates (a, b) of the highest grid point, and its risk."""
        return self._extreme(self.risks.nan_to_num(torch.inf).argmax())

    def _extreme(self, index: Tensor) -> tuple[float, float, float]:
        i, j = divmod(int(index), len(self.first))
        return self.first[j], self.second[i], float(self.risks[i, j])

    @cached_property
    def eigenvalues(self) -> Tensor:
        """Eigenvalues of the plane's 2 x 2 Hessian at each inner grid point by central differences, (rows, columns, 2)."""
        z = self.risks
        a, b = (self.first[1] - self.first[0]), (self.second[1] - self.second[0])
        aa = (z[1:-1, 2:] - 2 * z[1:-1, 1:-1] + z[1:-1, :-2]) / a**2
        bb = (z[2:, 1:-1] - 2 * z[1:-1, 1:-1] + z[:-2, 1:-1]) / b**2
        ab = (z[2:, 2:] - z[2:, :-2] - z[:-2, 2:] + z[:-2, :-2]) / (4 * a * b)
        middle, half = (aa + bb) / 2, (((aa - bb) / 2).square() + ab.square()).sqrt()
        return torch.stack([middle - half, middle + half], dim=-1)

    @cached_property
    def convex_share(self) -> float:
        """Share of inner grid points whose plane Hessian has no negative eigenvalue beyond rounding."""
        return float((self.eigenvalues[..., 0] >= -self._slack).double().mean())

    @cached_property
    def _slack(self) -> Tensor:
        """How far rounding may move an eigenvalue: four risks, each off by its rounding, over a squared spacing."""
        spacing = min(self.first[1] - self.first[0], self.second[1] - self.second[0])
        largest = torch.nn.functional.max_pool2d(self.risks.abs()[None, None], 3, stride=1)[0, 0]
        return 4 * self.rounding * largest / spacing**2

    @cached_property
    def curvature_ratio(self) -> Tensor:
        """|smallest / largest| eigenvalue of the plane's Hessian where the smallest is negative beyond rounding, else 0.

        Source: Li et al. 2018, section 6, there with the eigenvalues of the whole Hessian; those of a plane lie between
        them, so that negative curvature seen here is there too, and the other way round it need not be.
        """
        low, high = self.eigenvalues.unbind(-1)
        return torch.where(low < -self._slack, (low / high).abs(), torch.zeros_like(low))


def grid_places(first: list[float], second: list[float]) -> list[tuple[float, float]]:
    """Coordinates (a, b) of a grid, row by row: b is the row.

    >>> grid_places([0.0, 1.0], [5.0])
    [(0.0, 5.0), (1.0, 5.0)]
    """
    return [(a, b) for b in second for a in first]
