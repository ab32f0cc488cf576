"""A law on a grid of the unit interval, with the class of all thresholds: every risk is a finite sum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from torchstone.data.law import Classifier, conditional_risk, predicted
from torchstone.errors import SettingError


@dataclass(frozen=True, eq=False)
class GridLaw:
    """X uniform on the points (i + 1/2) / G, i = 0..G-1, and P(Y = 1 | X = x_i) = probabilities[i].

    Args:
        probabilities: eta at the grid's points, shape (G,), in [0, 1].

    Raises:
        SettingError: No grid, or values that are no probabilities.
    """

    probabilities: Tensor

    def __post_init__(self) -> None:
        eta = self.probabilities
        if eta.ndim != 1 or not len(eta) or not bool(((eta >= 0) & (eta <= 1)).all()):
            raise SettingError(
                "GridLaw needs probabilities in [0, 1], one a grid point",
                f"shape {tuple(eta.shape)}",
                "Pass P(Y = 1) at each point.",
            )
        object.__setattr__(self, "probabilities", eta.double())

    @classmethod
    def noisy_threshold(
        cls,
        points: int = 200,
        threshold: float = 0.5,
        flip: float = 0.1,
        island: tuple[float, float] | None = (0.7, 0.8),
    ) -> Self:
        """Class 1 above a threshold, flipped with a fixed chance, and the other way round on an island.

        Without the island the best threshold is the Bayes rule and the approximation error of thresholds is 0; the
        island makes it positive.

        Args:
            points: G.
            threshold: Where class 1 begins.
            flip: Chance of a wrong label, in [0, 1/2].
            island: Interval on which the classes are exchanged.

        Raises:
            SettingError: No points, or a flip outside [0, 1/2].
        """
        if points < 1 or not 0 <= flip <= 0.5:
            raise SettingError(
                "noisy_threshold needs points >= 1 and flip in [0, 1/2]", f"{points}, {flip}", "Change them."
            )
        x = _grid(points)
        is_one = x > threshold
        if island is not None:
            is_one = is_one ^ ((x > island[0]) & (x < island[1]))
        return cls(flip + (1 - 2 * flip) * is_one.double())

    @property
    def points(self) -> Tensor:
        """The grid (G,), increasing."""
        return _grid(len(self.probabilities))

    @property
    def joint(self) -> Tensor:
        """Probabilities P(X = x_i, Y = c), shape (G, 2)."""
        eta = self.probabilities
        return torch.stack([1 - eta, eta], dim=1) / len(eta)

    def sample(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Inputs (count, 1) in float64 and labels (count,), independent."""
        index = torch.randint(len(self.probabilities), (count,), generator=generator)
        coin = torch.rand(count, generator=generator, dtype=torch.float64)
        return self.points[index, None], (coin < self.probabilities[index]).long()

    def eta(self, x: Tensor) -> Tensor:
        """P(Y = 1 | X = x) for x (N, 1) in [0, 1): the value of the grid point whose cell holds x."""
        return self.probabilities[self.index(x)]

    def index(self, x: Tensor) -> Tensor:
        """Indices (N,) of the grid points whose cells hold x (N, 1)."""
        count = len(self.probabilities)
        return (x[:, 0].double() * count).floor().long().clamp(0, count - 1)

    def bayes_error(self) -> float:
        """R* = mean of min(eta, 1 - eta) over the grid."""
        return float(torch.minimum(self.probabilities, 1 - self.probabilities).mean())

    def risk(self, classifier: Classifier) -> float:
        """True risk of any classifier: the mean of its chance of an error over the grid.

        Raises:
            SettingError: The classifier gives anything but classes 0 and 1.
        """
        classes = predicted(classifier, self.points[:, None])
        return float(conditional_risk(self.probabilities, classes).mean())

    def thresholds(self) -> Tensor:
        """Classes that 1{x >= t} gives at the grid for each distinct t: (G + 1, G); row j has its j first points 0."""
        count = len(self.probabilities)
        return (torch.arange(count) >= torch.arange(count + 1)[:, None]).long()


def _grid(points: int) -> Tensor:
    return (torch.arange(points, dtype=torch.float64) + 0.5) / points
