"""One number measured, the number theory expects, and whether they agree."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from torchstone.details import number
from torchstone.errors import SettingError


class Kind(StrEnum):
    """How a measured number is compared with the expected one."""

    ABSOLUTE = "absolute"
    """|measured - expected| <= tolerance."""
    RELATIVE = "relative"
    """|measured - expected| <= tolerance |expected|."""
    AT_MOST = "at_most"
    """measured <= expected."""
    AT_LEAST = "at_least"
    """measured >= expected."""
    STANDARD_ERRORS = "standard_errors"
    """|measured - expected| <= tolerance x standard_error."""


@dataclass(frozen=True)
class Check:
    """A comparison that can fail.

    `holds` follows from the other fields, whatever is passed. A NaN anywhere, or a bound that is not finite, never
    holds.

    >>> Check("slope", 1.02, 1.0, 0.05, Kind.RELATIVE).holds
    True
    >>> Check("slope", float("nan"), 1.0, 0.05, Kind.RELATIVE).holds
    False

    Args:
        name: What was measured, a few words.
        measured: The number found.
        expected: The number of the theory, or the bound.
        tolerance: Largest deviation allowed, in the kind's unit; 0 for bounds.
        kind: How to compare.
        standard_error: Of `measured`, where it is a mean of random draws.
        note: Where `expected` comes from, or what to mind.

    Raises:
        SettingError: A negative tolerance, a relative one around 0, or standard errors that are missing.
    """

    name: str
    measured: float
    expected: float
    tolerance: float
    kind: Kind
    standard_error: float | None = None
    note: str = ""
    holds: bool = False

    def __post_init__(self) -> None:
        for field in ("measured", "expected", "tolerance"):
            object.__setattr__(self, field, number(getattr(self, field)))
        if self.standard_error is not None:
            object.__setattr__(self, "standard_error", number(self.standard_error))
        if self.tolerance < 0:
            raise SettingError(
                f"{self.name}: a tolerance is not negative", f"{self.tolerance}", "Pass its size."
            )
        if self.kind is Kind.RELATIVE and self.expected == 0:
            raise SettingError(
                f"{self.name}: a relative tolerance needs an expected value other than 0",
                "0",
                "Pass an absolute one.",
            )
        if self.kind is Kind.STANDARD_ERRORS and self.standard_error is None:
            raise SettingError(
                f"{self.name}: comparing in standard errors needs one", "None", "Pass standard_error."
            )
        object.__setattr__(self, "holds", self._agrees())

    def _agrees(self) -> bool:
        if not (math.isfinite(self.expected) and math.isfinite(self.tolerance)):
            return False
        deviation = abs(self.measured - self.expected)  # NaN fails every comparison below
        match self.kind:
            case Kind.AT_MOST:
                return self.measured <= self.expected
            case Kind.AT_LEAST:
                return self.measured >= self.expected
            case Kind.ABSOLUTE:
                return deviation <= self.tolerance
            case Kind.RELATIVE:
                return deviation <= self.tolerance * abs(self.expected)
            case Kind.STANDARD_ERRORS:
                return math.isfinite(self.error) and deviation <= self.tolerance * self.error

    @property
    def error(self) -> float:
        """The standard error, NaN where there is none."""
        return math.nan if self.standard_error is None else self.standard_error
