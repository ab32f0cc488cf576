"""Friedman's first regression: a smooth interaction, a square, two lines, five inputs that do nothing, and known noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torchstone.data.split import DataSplit
from torchstone.errors import SettingError

MEAN, SPREAD = 14.413297342419856, 4.881235885652424
"""Mean and standard deviation of the noiseless targets under uniform inputs."""


def friedman(u: Tensor) -> Tensor:
    """f(u) = 10 sin(pi u_1 u_2) + 20 (u_3 - 1/2)^2 + 10 u_4 + 5 u_5 for inputs (N, d >= 5) in [0, 1], shape (N,).

    Source: Friedman 1991, Multivariate Adaptive Regression Splines, section 4.3, eq. (61).
    """
    return (
        10 * torch.sin(math.pi * u[:, 0] * u[:, 1])
        + 20 * (u[:, 2] - 0.5).square()
        + 10 * u[:, 3]
        + 5 * u[:, 4]
    )


def regression(
    *, train: int = 1000, test: int = 1000, features: int = 10, noise: float = 1.0, seed: int = 0
) -> DataSplit:
    """Independent uniform inputs and y = f(u) + N(0, noise^2), both brought to mean 0 and standard deviation 1.

    The inputs become (u - 1/2) sqrt(12); the targets (y - 14.41) / 4.88, by the law's own constants and not the
    sample's. So the mean of the targets predicts with squared error 1 + `noise_variance`, and nothing with less than
    `noise_variance` = (noise / 4.88)^2, which is 0.042 by default.

    Args:
        train: Training examples.
        test: Test examples.
        features: Inputs, at least 5; those past the fifth do not matter.
        noise: Standard deviation of the noise on Friedman's scale; his is 1.
        seed: Of everything.

    Returns:
        float32 inputs (N, features) and targets (N, 1), with `noise_variance` set.

    Raises:
        SettingError: Fewer than five features, or a negative noise.
        DataError: No training or no test examples.
    """
    if features < 5 or not 0 <= noise < math.inf:
        raise SettingError(
            "regression needs features >= 5 and a finite noise >= 0", f"{features}, {noise}", "Change them."
        )
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(train + test, features, generator=generator, dtype=torch.float64)
    y = friedman(u) + noise * torch.randn(train + test, generator=generator, dtype=torch.float64)
    x = ((u - 0.5) * math.sqrt(12)).float()
    y = ((y - MEAN) / SPREAD).float()[:, None]
    return DataSplit(x[:train], y[:train], x[train:], y[train:], noise_variance=(noise / SPREAD) ** 2)
