"""Two Gaussian classes: the law on which every risk is a value of the normal distribution function."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from torchstone.data.law import Classifier, predicted
from torchstone.errors import SettingError

# Beyond so many standard deviations from both means lies less than 1e-35 of the mass.
REACH = 12.5


@dataclass(frozen=True)
class GaussianPair:
    """Classes 0 and 1, equally likely, with X ~ N(-m, I) and N(+m, I), m = (mu, ..., mu) / sqrt(d).

    eta(x) = 1 / (1 + exp(-2 m.x)), and R* = Phi(-mu) in every dimension: the means lie 2 mu apart.

    Args:
        mu: Half the distance of the means, at least 0.
        dimension: d.

    Raises:
        SettingError: A negative or infinite mu, or no dimension.

    Example:
        >>> law = GaussianPair(1.0)
        >>> round(law.bayes_error(), 6), round(law.risk(lambda x: (x[:, 0] > 0.5).long()), 6)
        (0.158655, 0.187672)

    Source: Devroye, Gyorfi & Lugosi 1996, section 2.1 and problem 2.11.
    """

    mu: float
    dimension: int = 1

    def __post_init__(self) -> None:
        if not (0 <= self.mu < math.inf) or self.dimension < 1:
            raise SettingError(
                "GaussianPair needs a finite mu >= 0 and a dimension >= 1",
                f"mu={self.mu}, dimension={self.dimension}",
                "Pass for example GaussianPair(1.0, 2).",
            )

    @property
    def mean(self) -> Tensor:
        """Mean of class 1, shape (d,); class 0 has its negative."""
        return torch.full((self.dimension,), self.mu / math.sqrt(self.dimension), dtype=torch.float64)

    def sample(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Inputs (count, d) in float64 and labels (count,), independent."""
        labels = torch.randint(2, (count,), generator=generator)
        noise = torch.randn(count, self.dimension, generator=generator, dtype=torch.float64)
        return noise + (2 * labels - 1)[:, None] * self.mean, labels

    def eta(self, x: Tensor) -> Tensor:
        """P(Y = 1 | X = x) for x (N, d)."""
        return torch.sigmoid(2 * (x.double() @ self.mean))

    def bayes_error(self) -> float:
        """Phi(-mu)."""
        return _normal_mass_below(-self.mu)

    def bayes_classifier(self, x: Tensor) -> Tensor:
        """Class 1 where m.x > 0."""
        return (x.double() @ self.mean > 0).long()

    def linear_risk(self, weight: Tensor, bias: float = 0.0) -> float:
        """Exact risk of the classifier 1{w.x + b > 0} in any dimension: the mean of Phi(-(w.m +- b) / |w|).

        Args:
            weight: w, shape (d,). Zero gives one class everywhere, of risk 1/2.
            bias: b.

        Raises:
            SettingError: A weight of another dimension.
        """
        if weight.shape != (self.dimension,):
            raise SettingError(
                f"weight must have shape ({self.dimension},)", str(tuple(weight.shape)), "Flatten it."
            )
        length = float(weight.double().norm())
        if length == 0:
            return 0.5
        reach = float(weight.double() @ self.mean) / length
        return (_normal_mass_below(-reach - bias / length) + _normal_mass_below(-reach + bias / length)) / 2

    def risk(self, classifier: Classifier, cells: int = 20_000) -> float:
        """True risk of any classifier of one variable, to about 1e-13.

        Where the class changes between neighbouring points of a grid the boundary is found by bisection; the mass
        between boundaries is a difference of normal distribution functions. Exact unless the class changes twice
        within one cell (of (25 + 2 mu) / `cells`).

        Cost: 60 calls of the classifier.

        Args:
            classifier: From inputs (N, 1) in float64 to classes (N,).
            cells: Cells of the grid.

        Raises:
            SettingError: More than one dimension, or no classifier of classes 0 and 1.
        """
        if self.dimension != 1:
            raise SettingError(
                "GaussianPair.risk needs one dimension",
                f"{self.dimension}",
                "Use linear_risk for a linear classifier, estimate_risk for any other.",
            )
        reach = self.mu + REACH
        grid = torch.linspace(-reach, reach, cells + 1, dtype=torch.float64)
        classes = predicted(classifier, grid[:, None])
        change = (classes[1:] != classes[:-1]).nonzero().flatten()
        edges = _boundaries(classifier, grid[change], grid[change + 1], classes[change])
        inside = torch.cat([classes[:1], classes[change + 1]])
        infinite = torch.tensor([math.inf], dtype=torch.float64)
        edges = torch.cat([-infinite, edges, infinite])
        wrong_as_zero = _mass_between(edges, -self.mu)[inside == 1].sum()
        wrong_as_one = _mass_between(edges, self.mu)[inside == 0].sum()
        return float(wrong_as_zero + wrong_as_one) / 2


def _boundaries(classifier: Classifier, low: Tensor, high: Tensor, class_below: Tensor) -> Tensor:
    """Where the class changes between each low and high, by bisection to the last digit."""
    for _ in range(58):
        if not len(low):
            break
        middle = (low + high) / 2
        is_below = predicted(classifier, middle[:, None]) == class_below
        low, high = torch.where(is_below, middle, low), torch.where(is_below, high, middle)
    return (low + high) / 2


def _mass_between(edges: Tensor, mean: float) -> Tensor:
    """Mass of N(mean, 1) between neighbouring edges; taken from the nearer tail, so that small masses keep digits."""
    centred = edges - mean
    low, high = centred[:-1], centred[1:]
    below = torch.special.ndtr(high) - torch.special.ndtr(low)
    above = torch.special.ndtr(-low) - torch.special.ndtr(-high)
    return torch.where(low > 0, above, below)


def _normal_mass_below(value: float) -> float:
    """Phi(value), with its relative precision kept in the lower tail."""
    return math.erfc(-value / math.sqrt(2)) / 2
