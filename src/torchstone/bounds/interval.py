"""A confidence interval as plain data."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torchstone.errors import SettingError


@dataclass(frozen=True)
class Interval:
    """A closed interval that covers an unknown number in at least, or about, a share `confidence` of samples.

    Args:
        low: Lower end.
        high: Upper end; may be infinite, as may the lower.
        confidence: Nominal coverage in (0, 1], 1 for a bound that always holds.
        method: How it was made, e.g. "Clopper-Pearson".

    Raises:
        SettingError: An end is NaN, the ends are out of order or the confidence is out of range.

    Example:
        >>> 0.3 in Interval(0.25, 0.5, 0.95, "Wilson")
        True
    """

    low: float
    high: float
    confidence: float
    method: str

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise SettingError(
                "Interval ends must be numbers with low <= high",
                f"[{self.low}, {self.high}]",
                "Check the values the interval was made from for NaN.",
            )
        if self.confidence != 1.0:
            check_confidence(self.confidence)

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    @property
    def width(self) -> float:
        """Upper end minus lower end."""
        return self.high - self.low

    def clipped(self, low: float, high: float) -> Interval:
        """The part inside [low, high], where the unknown is known to lie; coverage is kept."""
        clip = lambda end: min(max(end, low), high)
        return Interval(clip(self.low), clip(self.high), self.confidence, self.method)


def check_confidence(confidence: float) -> float:
    """The confidence itself, where it is inside (0, 1)."""
    if not (math.isfinite(confidence) and 0 < confidence < 1):
        raise SettingError(
            "confidence must lie strictly between 0 and 1", str(confidence), "Use 0.95 for a 95% interval."
        )
    return confidence
