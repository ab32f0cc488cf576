"""Where the error comes from: one error rate, or loss, split into parts that add up to it."""

from __future__ import annotations

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
        shift: What it does worse where it will be used than on test data; None where that is unknown.
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

        fitting    = max(0, train - R*)
        estimation = max(0, test - max(train, R*))
        shift      = max(0, shifted - max(test, R*))

    so that irreducible + fitting + estimation = max(test, train), which is the test error unless the network does
    better on test than on training data. Each interval follows from the ends of the intervals given (interval
    arithmetic), so all parts hold at once whenever the inputs do: give those at a confidence split among them.

    Returns:
        The parts.

    Source: Bottou & Bousquet 2008, section 2.2, with the training error standing for approximation and optimisation
    error together: they need other networks to be told apart.
    """
    ceiling = test.value
    floor = Estimate(
        min(irreducible.value, ceiling),
        min(irreducible.low, ceiling),
        max(min(irreducible.high, test.high), min(irreducible.value, ceiling)),
    )
    fitting = _excess(train, floor)
    base = _larger(train, floor)
    estimation = _excess(test, base)
    shift = None if shifted is None else _excess(shifted, _larger(test, floor))
    return Budget(floor, fitting, estimation, shift)


def _excess(upper: Estimate, lower: Estimate) -> Estimate:
    cut = lambda value: max(0.0, value)
    return Estimate(cut(upper.value - lower.value), cut(upper.low - lower.high), cut(upper.high - lower.low))


def _larger(first: Estimate, second: Estimate) -> Estimate:
    return Estimate(max(first.value, second.value), max(first.low, second.low), max(first.high, second.high))
