"""Interval for a mean from a sample."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torchstone.bounds.interval import Interval, check_confidence
from torchstone.errors import NumericalError, SettingError


def mean_interval(values: Tensor, confidence: float = 0.95) -> Interval:
    r"""Student's interval for the mean: :math:`\bar x \pm t_{n-1,(1+c)/2}\, s / \sqrt n`.

    Exact for independent normal values; for others the coverage error is of order 1/n, larger for skewed laws.

    Args:
        values: Independent values (n,), n >= 2, any real dtype; computed in float64.
        confidence: Coverage for normal values.

    Returns:
        The interval, in the unit of the values.

    Raises:
        SettingError: Fewer than two values, or not one-dimensional.
        NumericalError: A value is NaN or infinite.

    Example:
        >>> interval = mean_interval(torch.tensor([1.0, 2.0, 3.0]))
        >>> round(interval.low, 3), round(interval.high, 3)
        (-0.484, 4.484)

    Source: Student 1908.
    """
    from scipy.special import stdtrit

    values = checked_sample(values, least=2)
    quantile = float(stdtrit(len(values) - 1, (1 + check_confidence(confidence)) / 2))
    half = quantile * float(values.std()) / math.sqrt(len(values))
    centre = float(values.mean())
    return Interval(centre - half, centre + half, confidence, "Student t")


def checked_sample(values: Tensor, least: int) -> Tensor:
    """The values in float64, where they are one-dimensional, finite and at least `least` of them."""
    if values.ndim != 1 or len(values) < least:
        raise SettingError(
            f"An interval needs a one-dimensional sample of at least {least} values",
            f"shape {tuple(values.shape)}",
            "Pass one value per independent example.",
        )
    values = values.detach().to(torch.float64)
    if not torch.isfinite(values).all():
        raise NumericalError(
            "An interval needs finite values",
            f"{int((~torch.isfinite(values)).sum())} of {len(values)} are NaN or infinite",
            "Remove them, or say why they are left out.",
        )
    return values
