"""Independent samples, drawn until their mean is as precise as asked for."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from torchstone.errors import SettingError


@dataclass(frozen=True)
class Precision:
    """When a mean is precise enough: its standard error is at most max(tolerance |mean|, absolute).

    Where the mean itself may be zero no relative error is ever small, and `absolute` says when to stop.

    Raises:
        SettingError: A tolerance that is not positive, or a negative absolute one.
    """

    tolerance: float
    absolute: float = 0.0

    def __post_init__(self) -> None:
        if not self.tolerance > 0:
            raise SettingError("tolerance must be positive", f"{self.tolerance}", "0.01 asks for 1%.")
        if not self.absolute >= 0:
            raise SettingError(
                "absolute must not be negative", f"{self.absolute}", "Pass 0 for a relative error only."
            )

    def target(self, mean: float) -> float:
        """The largest standard error that is small enough beside this mean."""
        return max(self.tolerance * abs(mean), self.absolute)

    def reached_by(self, samples: Tensor) -> bool:
        """Whether the mean of these independent samples is precise."""
        return standard_error(samples) <= self.target(float(samples.mean()))


def standard_error(samples: Tensor) -> float:
    """Sample standard deviation over sqrt(count); infinite for a single sample, 0 exactly for equal ones."""
    count = samples.shape[0]
    return float((samples - samples[0]).std()) / math.sqrt(count) if count > 1 else math.inf


def draw_until(
    draw: Callable[[int], Tensor], precision: Precision | None, least: int, most: int, block: int
) -> tuple[Tensor, bool]:
    """Samples from `draw(count)`, a block at a time.

    Args:
        draw: Gives `count` independent samples, in float64.
        precision: Stop as soon as it is reached; None for `most` samples.
        least: At least this many.
        most: At most this many.
        block: So many at once.

    Returns:
        The samples, and whether the precision was reached.
    """
    samples = torch.empty(0, dtype=torch.float64)
    while True:
        missing = (least if len(samples) < least else most) - len(samples)
        samples = torch.cat([samples, draw(min(block, missing))])
        precise = precision is None or precision.reached_by(samples)
        if len(samples) >= least and ((precise and precision is not None) or len(samples) >= most):
            return samples, precise


def require_at_least(name: str, value: int, least: int) -> None:
    """Refuse a count that is too small, or none.

    Raises:
        SettingError: Naming it.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise SettingError(f"{name} must be a whole number, at least {least}", repr(value), "Pass an int.")
    if value < least:
        raise SettingError(f"{name} must be at least {least}", f"{value}", "Raise it.")


def require_generator(generator: torch.Generator) -> None:
    """Refuse randomness that is not explicit.

    Raises:
        SettingError: Something other than a generator.
    """
    if not isinstance(generator, torch.Generator):
        raise SettingError(
            "generator must be a torch.Generator",
            repr(generator)[:60],
            "Pass torch.Generator().manual_seed(0).",
        )
