"""When to measure what, so that watching stays within its share of the time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from torchstone.errors import SettingError
from torchstone.watching.quantities.base import Quantity

Every = int | Literal["auto"]
SHADOW = 1.75
"""Times its own seconds that a measurement lengthens a run: the steps after it find caches and memory taken."""


@dataclass
class Spent:
    """What a quantity has cost so far.

    Attributes:
        seconds: In total.
        times: How often it was measured.
        last: The step of the last time.
    """

    seconds: float = 0.0
    times: int = 0
    last: int = 0


@dataclass
class Schedule:
    """Chooses the quantities of a step.

    With a number, all of them at every so many steps. With "auto", every quantity has an equal account into which a share
    of the training time flows, `budget` for all together, and is measured as soon as its account covers what it is
    expected to cost: what it cost on average so far, at first its own guess in training steps. Cheap quantities leave most
    of their accounts unused; half of what is left over goes to the quantity that has waited longest, so that the dear ones
    are measured in short runs too. Never is more spent than the budget holds, as far as costs were expected right: seconds
    count `SHADOW` times, as spending 6.5% made an MLP of 6 ms a step 9% slower, and up to 11% in single runs.

    Args:
        quantities: All of them.
        every: Steps between measurements, or "auto".
        budget: Share of the training time, with "auto".
        resumed: Steps that a resumed run had taken before.

    Raises:
        SettingError: every is neither "auto" nor a whole number of at least 1, or a budget outside (0, 10].
    """

    quantities: Sequence[Quantity]
    every: Every = "auto"
    budget: float = 0.10
    resumed: int = 0
    spent: dict[str, Spent] = field(default_factory=dict)

    def __post_init__(self) -> None:
        whole = isinstance(self.every, int) and not isinstance(self.every, bool) and self.every >= 1
        if self.every != "auto" and not whole:
            raise SettingError(
                'every must be "auto" or a whole number of at least 1', repr(self.every), 'Use "auto".'
            )
        if (
            isinstance(self.budget, bool)
            or not isinstance(self.budget, int | float)
            or not 0 < self.budget <= 10
        ):
            raise SettingError(
                "budget must lie in (0, 10]", repr(self.budget), "0.1 is a tenth of the training time."
            )
        self.spent = {quantity.key: Spent() for quantity in self.quantities}

    @property
    def total(self) -> float:
        """Seconds spent on measuring."""
        return sum(one.seconds for one in self.spent.values())

    def due(self, step: int, training_seconds: float, other_seconds: float = 0.0) -> list[Quantity]:
        """What to measure after a step.

        Args:
            step: Counted from 1.
            training_seconds: What the training itself has taken so far, without what is spent here.
            other_seconds: Spent on watching but on no quantity: hooks, logs.
        """
        if self.every != "auto":
            assert isinstance(self.every, int)
            return list(self.quantities) if step == self.resumed + 1 or step % self.every == 0 else []
        step_seconds = training_seconds / max(1, step - self.resumed)
        expected = {one.key: self._expected(one, step_seconds) for one in self.quantities}
        allowed = self.budget / SHADOW * training_seconds
        account = allowed / max(1, len(self.quantities))
        left = allowed - self.total - other_seconds
        chosen: list[Quantity] = []
        for quantity in self.quantities:
            cost = expected[quantity.key]
            if self.spent[quantity.key].seconds + cost <= account and cost <= left:
                chosen.append(quantity)
                left -= cost
        waiting = sorted((one for one in self.quantities if one not in chosen), key=self._waited)
        if waiting and expected[waiting[0].key] <= left / 2:
            chosen.append(waiting[0])
        return [one for one in self.quantities if one in chosen]

    def _waited(self, quantity: Quantity) -> tuple[int, float]:
        """Those never measured first, the cheapest of them before the others; then those measured longest ago."""
        one = self.spent[quantity.key]
        return (one.last, quantity.cost)

    def note(self, quantity: Quantity, step: int, seconds: float) -> None:
        """A measurement that was made."""
        one = self.spent[quantity.key]
        one.seconds, one.times, one.last = one.seconds + seconds, one.times + 1, step

    def drop(self, quantity: Quantity) -> None:
        """Leave a quantity out from now on; what it cost stays counted."""
        self.quantities = [one for one in self.quantities if one is not quantity]

    def _expected(self, quantity: Quantity, step_seconds: float) -> float:
        one = self.spent[quantity.key]
        return one.seconds / one.times if one.times else quantity.cost * step_seconds

    def said(self) -> dict[str, dict[str, float]]:
        """How often each quantity was measured and what it took, for the log."""
        return {
            name: {"times": one.times, "seconds": round(one.seconds, 4)} for name, one in self.spent.items()
        }
