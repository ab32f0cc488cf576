"""One thing that is watched."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from torchstone.watching.record import Series
from torchstone.watching.state import Measured, State


class Quantity(ABC):
    """Measures something of a step.

    Attributes:
        name: Its name, for `quantities=` and for what is said when it fails.
        series: The numbers that it gives, by name.
        kinds: Alerts that it judges, so that those standing can be taken back.
        cost: Training steps that one measurement is expected to take, until it is known.
        of_step: Whether it needs the step's gradients and the parameters before it.
        of_probe: Whether it needs a probe of data.
    """

    name: ClassVar[str]
    series: ClassVar[Mapping[str, Series]] = {}
    kinds: tuple[str, ...] = ()
    cost: float = 0.1
    of_step: ClassVar[bool] = False
    of_probe: ClassVar[bool] = False

    @abstractmethod
    def measure(self, state: State) -> Measured:
        """Measure; what it raises is said once, and then it is left out."""

    @property
    def key(self) -> str:
        """Name, where several quantities of one class are watched."""
        return self.name

    def described(self) -> Mapping[str, Series]:
        """The numbers that it gives, by name."""
        return self.series
