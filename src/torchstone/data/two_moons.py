"""Two interleaved half-circles with Gaussian noise: a law in the plane with a known Bayes error."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from torchstone.data.label_noise import flip_labels
from torchstone.data.split import DataSplit
from torchstone.errors import SettingError


@dataclass(frozen=True)
class TwoMoons:
    """Classes 0 and 1, equally likely, each a uniform angle t in [0, pi] on its half-circle plus N(0, noise^2 I).

    Class 0 lies on (cos t, sin t), class 1 on (1 - cos t, 1/2 - sin t).

    Args:
        noise: Standard deviation, positive.

    Raises:
        SettingError: Any other noise.
    """

    noise: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.noise < math.inf:
            raise SettingError(
                "TwoMoons.noise must be positive and finite", repr(self.noise), "Pass for example 0.2."
            )

    def sample(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Inputs (count, 2) in float64 and labels (count,), independent."""
        labels = torch.randint(2, (count,), generator=generator)
        angles = math.pi * torch.rand(count, generator=generator, dtype=torch.float64)
        blur = self.noise * torch.randn(count, 2, generator=generator, dtype=torch.float64)
        moons = torch.stack(_moons(angles))
        return moons[labels, torch.arange(count)] + blur, labels

    def eta(self, x: Tensor) -> Tensor:
        """P(Y = 1 | X = x) for x (N, 2).

        Cost: distances to about 38 / noise points of each half-circle, in chunks of 4,096 inputs.
        """
        angles, weights = self._quadrature()
        zero, one = _moons(angles)
        chances = []
        for part in x.double().split(4096):
            log_zero, log_one = (
                torch.logsumexp(weights.log() - torch.cdist(part, moon).square() / (2 * self.noise**2), dim=1)
                for moon in (zero, one)
            )
            chances.append(torch.sigmoid(log_one - log_zero))
        return torch.cat(chances)

    def bayes_error(self) -> float:
        """R* = 1/2 integral of min(p_0, p_1), by the midpoint rule with cells of noise/32; about 1e-4 relative.

        Cost: one matrix product a class, because a Gaussian is a product over coordinates: 0.05 s at noise 0.2.
        """
        angles, weights = self._quadrature()
        step, margin = self.noise / 32, 8 * self.noise
        first = torch.arange(-1 - margin, 2 + margin, step, dtype=torch.float64) + step / 2
        second = torch.arange(-0.5 - margin, 1 + margin, step, dtype=torch.float64) + step / 2
        zero, one = (
            (weights * self._normal(first, moon[:, 0])) @ self._normal(second, moon[:, 1]).T
            for moon in _moons(angles)
        )
        return float(torch.minimum(zero, one).sum()) * step**2 / 2

    def _normal(self, x: Tensor, centres: Tensor) -> Tensor:
        """Density of N(centre, noise^2) at x, (len(x), len(centres))."""
        distance = (x[:, None] - centres) / self.noise
        return torch.exp(-distance.square() / 2) / (self.noise * math.sqrt(2 * math.pi))

    def _quadrature(self) -> tuple[Tensor, Tensor]:
        """Angles and weights of the mean over [0, pi]: Gauss-Legendre on panels no longer than the noise."""
        panels = math.ceil(math.pi / self.noise)
        nodes, weights = (torch.from_numpy(each) for each in np.polynomial.legendre.leggauss(12))
        starts = torch.arange(panels, dtype=torch.float64)[:, None]
        angles = (starts + (nodes + 1) / 2) * math.pi / panels
        return angles.flatten(), (weights / (2 * panels)).repeat(panels)


def two_moons(
    *,
    train: int = 400,
    test: int = 1000,
    noise: float = 0.2,
    label_noise: float = 0.0,
    seed: int = 0,
) -> DataSplit:
    """Independent training and test draws of `TwoMoons(noise)`, inputs (N, 2) in float32.

    Args:
        train: Training examples.
        test: Test examples.
        noise: Standard deviation of the Gaussian around the half-circles.
        label_noise: Share of the training labels that is replaced by the other class; where is recorded in `flipped`.
        seed: Of everything.

    Raises:
        SettingError: A noise that is not positive, or `label_noise` outside [0, 1].
        DataError: No training or no test examples.
    """
    law, generator = TwoMoons(noise), torch.Generator().manual_seed(seed)
    train_x, train_y = law.sample(train, generator)
    test_x, test_y = law.sample(test, generator)
    noisy, flipped = flip_labels(train_y, label_noise, 2, generator)
    return DataSplit(train_x.float(), noisy, test_x.float(), test_y, ("upper", "lower"), flipped)


def _moons(angles: Tensor) -> tuple[Tensor, Tensor]:
    """Points of the two half-circles at the angles, (N, 2) each."""
    upper = torch.stack([angles.cos(), angles.sin()], dim=1)
    return upper, torch.tensor([1.0, 0.5], dtype=angles.dtype) - upper
