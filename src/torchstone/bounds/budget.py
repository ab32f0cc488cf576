"""Where the error comes from: a test error, or loss, split into parts that add up to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torchstone.errors import SettingError


@dataclass(frozen=True)
class Estimate:
    """A number and an interval around it."""

    value: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low <= self.value <= self.high:
            raise SettingError(
                "Estimate needs low <= value <= high",
                f"{self.low}, {self.value}, {self.high}",
                "Check for NaN.",
            )


@dataclass(frozen=True)
class Budget:
    """Parts of an error.

    Args:
        irreducible: What no model could avoid on these inputs.
        fitting: What the network leaves on its own training data beyond that: too small, too regularised, or not
            trained to the end (approximation and optimisation error).
        estimation: What it does worse on new data than on training data.
        shift: What it does worse where it will be used than on test data, on top; None where that is unknown.
    """

    irreducible: Estimate
    fitting: Estimate
    estimation: Estimate
    shift: Estimate | None = None

    @property
    def parts(self) -> dict[str, Estimate]:
        """The parts by name, in order."""
        parts = {"irreducible": self.irreducible, "fitting": self.fitting, "estimation": self.estimation}
        return parts if self.shift is None else {**parts, "shift": self.shift}


def budget(irreducible: Estimate, train: Estimate, test: Estimate, shifted: Estimate | None = None) -> Budget:
    r"""Split a test error by the chain irreducible -> training -> test -> shifted.

    With R* the irreducible error, never taken above the test error it is part of,

        fitting    = max(0, min(train, test) - R*)
        estimation = max(0, test - max(train, R*))
        shift      = max(0, shifted - test)

    so that irreducible + fitting + estimation = test error, always: a training error above the test error says no more
    about the test error than all of it. Shift comes on top. Each interval follows from the ends of the intervals given
    (interval arithmetic), so all parts hold at once whenever the inputs do: give those at a confidence split among them.

    Returns:
        The parts.

    Example:
        >>> exact = lambda value: Estimate(value, value, value)
        >>> parts = budget(exact(0.1), train=exact(0.25), test=exact(0.5)).parts
        >>> {name: part.value for name, part in parts.items()}
        {'irreducible': 0.1, 'fitting': 0.15, 'estimation': 0.25}

    Source: Bottou & Bousquet 2008, section 2.2, with the training error standing for approximation and optimisation
    error together: they need other networks to be told apart.
    """
    ceiling = test.value
    value = min(irreducible.value, ceiling)
    floor = Estimate(
        value, min(irreducible.low, value, test.high), max(min(irreducible.high, test.high), value)
    )
    fitting = _excess(_combined(min, train, test), floor)
    estimation = _excess(test, _combined(max, train, floor))
    return Budget(floor, fitting, estimation, None if shifted is None else _excess(shifted, test))


def _excess(upper: Estimate, lower: Estimate) -> Estimate:
    cut = lambda value: max(0.0, value)
    return Estimate(cut(upper.value - lower.value), cut(upper.low - lower.high), cut(upper.high - lower.low))


def _combined(choose: Callable[[float, float], float], first: Estimate, second: Estimate) -> Estimate:
    return Estimate(
        choose(first.value, second.value), choose(first.low, second.low), choose(first.high, second.high)
    )
