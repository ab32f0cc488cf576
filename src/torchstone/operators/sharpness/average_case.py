r"""Sharpness as the expected rise of the risk under Gaussian noise on the weights.

    plain:     E f(theta + sigma z) - f(theta)
    relative:  E f(theta + sigma |theta| z) - f(theta),      z standard normal, |theta| z elementwise

To second order they are sigma^2 tr(H) / 2 and sigma^2 sum_i theta_i^2 H_ii / 2. The relative one does not change when layers
are rescaled without changing the function.
Source: Neyshabur, Bhojanapalli, McAllester & Srebro 2017, section 2.3 (expected sharpness); Andriushchenko et al. 2023,
equation (1) (average-case adaptive sharpness).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from torchstone.errors import SettingError
from torchstone.operators.sharpness.risk_around import RiskAround


@dataclass(frozen=True)
class AverageCase:
    """The mean rise over random perturbations.

    Args:
        noise: sigma.
        length: Root of the mean squared length of sigma z over the weights that move.
        rise: Mean over antithetic pairs, in the loss's unit; unbiased.
        standard_error: Over the pairs.
        pairs: How many.
    """

    noise: float
    length: float
    rise: float
    standard_error: float
    pairs: int

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Student's t interval around the mean."""
        from scipy.stats import t

        half = float(t.ppf(0.5 + confidence / 2, self.pairs - 1)) * self.standard_error
        return self.rise - half, self.rise + half


def average_sharpness(
    around: RiskAround,
    noises: Sequence[float],
    *,
    relative: bool = False,
    pairs: int = 8,
    generator: torch.Generator,
) -> tuple[AverageCase, ...]:
    """The expected rise at each strength of the noise, with its standard error.

    A pair is z and -z, which cancels the gradient's part of the noise; the same pairs serve every strength, so that the
    curve over the noise is smooth.

    Cost: 2 pairs len(noises) forward passes. Bias: none.

    Args:
        around: The risk around a network's weights.
        noises: sigma, each positive.
        relative: Noise in units of each weight's size.
        pairs: Two or more.
        generator: Draws the noise.

    Returns:
        One result for each strength, in their order.

    Raises:
        SettingError: Fewer than two pairs, or a strength that is not positive.
    """
    if pairs < 2:
        raise SettingError("A standard error needs two pairs or more", repr(pairs), "Raise pairs.")
    if not noises or any(not 0 < noise < float("inf") for noise in noises):
        raise SettingError("Noises must be positive and finite", repr(tuple(noises)), "Pass strengths.")
    here = around.here
    scales = here.abs() if relative else torch.ones_like(here)
    rises = torch.empty(len(noises), pairs, dtype=torch.float64)
    for pair in range(pairs):
        z = scales * torch.randn(len(here), generator=generator, dtype=torch.float64).to(here)
        for index, noise in enumerate(noises):
            rises[index, pair] = sum(around.rise(sign * noise * z) for sign in (1.0, -1.0)) / 2
    count = int((here != 0).sum()) if relative else len(here)
    return tuple(_averaged(noise, noise * count**0.5, row) for noise, row in zip(noises, rises, strict=True))


def _averaged(noise: float, length: float, rises: Tensor) -> AverageCase:
    error = float(rises.std()) / len(rises) ** 0.5
    return AverageCase(noise, length, float(rises.mean()), error, len(rises))
