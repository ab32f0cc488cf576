"""The variance of a Gaussian prior chosen after the data: from a countable set, by a union bound."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from torchstone.bounds.risk_bound import check_at_least, check_count, check_delta


class VarianceGrid(Protocol):
    r"""Prior variances :math:`\lambda_j` tried at once.

    A prior must not depend on the data, but bounds that hold for each j with probability :math:`1 - \delta_j` hold for all of
    them with probability :math:`1 - \sum_j \delta_j`, so that the best j may be taken. Choosing costs
    :math:`\ln(\delta / \delta_j)` nats.
    """

    def variance(self, index: int) -> float:
        """The variance of a place in the grid."""
        ...

    def delta(self, index: int, delta: float) -> float:
        """Its share of delta."""
        ...

    def best(self, spread: float, coordinates: int) -> int:
        r"""The place that makes the divergence and the price of the choice smallest.

        Minimises :math:`\frac{A}{2\lambda_j} + \frac d2 \ln \lambda_j - \ln \delta_j`, the part of
        :math:`\mathrm{KL}(N(\mu, \sigma^2) \| N(\mu_0, \lambda_j I)) - \ln \delta_j` that depends on j.

        Args:
            spread: :math:`A = \sum_i (\mu_i - \mu_{0i})^2 + \sigma_i^2`.
            coordinates: d.

        Raises:
            SettingError: A negative spread or no coordinates.
        """
        ...


@dataclass(frozen=True)
class PriorGrid:
    r"""Prior variances :math:`\lambda_j = c\, e^{-j/b}`, j = 1, 2, ..., tried at once by a union bound.

    With :math:`\delta_j = 6 \delta / (\pi^2 j^2)`, choosing j costs :math:`2 \ln j + \ln(\pi^2/6)` nats. Small variances are dear: see
    `CentredGrid` where one has an idea of the scale.

    Args:
        largest: c, fixed before the data.
        precision: b; neighbours differ by the factor :math:`e^{1/b}`.

    Raises:
        SettingError: c that is not positive, or b below 1.

    Source: Dziugaite & Roy 2017, section 3.1.
    """

    largest: float = 0.1
    precision: int = 100

    def __post_init__(self) -> None:
        check_at_least("largest", self.largest, strictly=True)
        check_count("precision", self.precision)

    def variance(self, index: int) -> float:
        r"""The variance :math:`\lambda_j`, for j of at least 1."""
        return self.largest * math.exp(-check_count("index", index) / self.precision)

    def delta(self, index: int, delta: float) -> float:
        r"""The share :math:`\delta_j` of delta; over all j they add up to it."""
        return 6 * check_delta(delta) / (math.pi * check_count("index", index)) ** 2

    def best(self, spread: float, coordinates: int) -> int:
        """The best j among variances down to c e^-40; see `VarianceGrid`."""
        j = torch.arange(1, 40 * self.precision + 1, dtype=torch.float64)
        return _best(j, math.log(self.largest) - j / self.precision, 2 * j.log(), spread, coordinates)


@dataclass(frozen=True)
class CentredGrid:
    r"""Prior variances :math:`\lambda_j = \lambda_0\, e^{j/b}` for all whole numbers j, cheap around a guess.

    With :math:`\delta_j = \frac{2 \delta}{3 (|j|+1)(|j|+2)}` the guess itself costs ln 3 nats, and a factor of two in the
    variance, j = 69 for b = 100, costs 9.

    Args:
        guess: :math:`\lambda_0`, fixed before the data.
        precision: b; neighbours differ by the factor :math:`e^{1/b}`.

    Raises:
        SettingError: A guess that is not positive, or b below 1.

    Example:
        >>> grid = CentredGrid(0.01)
        >>> grid.variance(0), round(sum(grid.delta(j, 0.05) for j in range(-9999, 10_000)), 4)
        (0.01, 0.05)
    """

    guess: float
    precision: int = 100

    def __post_init__(self) -> None:
        check_at_least("guess", self.guess, strictly=True)
        check_count("precision", self.precision)

    def variance(self, index: int) -> float:
        r"""The variance :math:`\lambda_j`."""
        return self.guess * math.exp(index / self.precision)

    def delta(self, index: int, delta: float) -> float:
        r"""The share :math:`\delta_j` of delta; over all j they add up to it."""
        return 2 * check_delta(delta) / (3 * (abs(index) + 1) * (abs(index) + 2))

    def best(self, spread: float, coordinates: int) -> int:
        """The best j among variances up to a factor e^40 from the guess; see `VarianceGrid`."""
        j = torch.arange(-40 * self.precision, 40 * self.precision + 1, dtype=torch.float64)
        price = ((j.abs() + 1) * (j.abs() + 2)).log()
        return _best(j, math.log(self.guess) + j / self.precision, price, spread, coordinates)


def _best(j: Tensor, log_variance: Tensor, price: Tensor, spread: float, coordinates: int) -> int:
    check_at_least("spread", spread)
    check_count("coordinates", coordinates)
    cost = 0.5 * spread * (-log_variance).exp() + 0.5 * coordinates * log_variance + price
    return int(j[cost.argmin()])
