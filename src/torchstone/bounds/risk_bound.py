"""An upper bound on a risk as plain data: what was measured, what the class costs, what the sample's chance costs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torchstone.errors import SettingError


@dataclass(frozen=True)
class RiskBound:
    """A number that the risk exceeds with probability at most `delta` over the sample, and its three parts.

    Vacuous values are kept as they are: they still compare classes.

    Args:
        empirical: Mean loss on the sample.
        complexity: The term of the class.
        deviation: The term of the sample's chance, which is there for a single predictor too.
        delta: Largest probability of failure.
        largest_loss: Largest value a loss can take; a bound of as much says nothing.
        assumes: What has to hold, one sentence.

    Example:
        >>> bound = RiskBound(0.1, 0.05, 0.02, delta=0.05, largest_loss=1.0, assumes="independent examples")
        >>> round(bound.value, 12), bound.vacuous
        (0.17, False)
    """

    empirical: float
    complexity: float
    deviation: float
    delta: float
    largest_loss: float
    assumes: str

    @property
    def value(self) -> float:
        """The bound on the risk, in the unit of the loss."""
        return self.empirical + self.complexity + self.deviation

    @property
    def vacuous(self) -> bool:
        """Whether every predictor satisfies it on every law."""
        return self.value >= self.largest_loss


def check_delta(delta: float) -> float:
    """The probability of failure itself, where it is inside (0, 1)."""
    if not (math.isfinite(delta) and 0 < delta < 1):
        raise SettingError(
            "delta, the probability of failure, must lie strictly between 0 and 1",
            str(delta),
            "Use 0.05 for a bound that holds for 95% of samples.",
        )
    return delta


def check_count(name: str, count: int, least: int = 1) -> int:
    """The count itself, where it is a whole number of at least `least`."""
    # Integers may be larger than any float: a class can have 2^5000 members.
    whole = isinstance(count, int) or (math.isfinite(count) and count == int(count))
    if isinstance(count, bool) or not whole or count < least:
        raise SettingError(f"{name} must be a whole number of at least {least}", str(count), "Pass a count.")
    return int(count)


def check_at_least(name: str, value: float, least: float = 0.0, strictly: bool = False) -> float:
    """The value itself, where it is a finite number above `least`, or at it unless `strictly`."""
    if not math.isfinite(value) or value < least or (strictly and value == least):
        relation = "above" if strictly else "at least"
        raise SettingError(
            f"{name} must be finite and {relation} {least:g}", str(value), "Pass its true size."
        )
    return float(value)


def check_mean_loss(empirical: float, largest_loss: float) -> float:
    """The mean loss itself, where losses in [0, largest_loss] can have it."""
    check_at_least("largest_loss", largest_loss, strictly=True)
    if not 0 <= empirical <= largest_loss:
        raise SettingError(
            "A risk bound needs a mean of losses that lie in [0, largest_loss]",
            f"mean loss {empirical}, largest_loss={largest_loss}",
            "Clip the loss, or pass the largest value it can take.",
        )
    return float(empirical)
