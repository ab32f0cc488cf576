"""Any instrument of the examination, asked again and again while training goes on."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torchstone.errors import NotApplicableError
from torchstone.instruments.catalogue import make
from torchstone.instruments.measurement import measure
from torchstone.reading import CostClass, Level
from torchstone.watching.quantities.base import Quantity
from torchstone.watching.record import Alert, Series
from torchstone.watching.state import Measured, State
from torchstone.workbench import Workbench

_STEPS = {
    CostClass.INSTANT: 3.0,
    CostClass.SECONDS: 20.0,
    CostClass.MINUTES: 400.0,
    CostClass.RETRAINING: 1e6,
}
_SEVERITY = {Level.ATTENTION: "attention", Level.POOR: "poor"}


class InstrumentQuantity(Quantity):
    """An instrument on the probe: its value is recorded, its verdict becomes an alert with its remedies.

    Args:
        identifier: The instrument's id.
        settings: Settings of it.
    """

    name = "instrument"
    of_probe = True

    def __init__(self, identifier: str, settings: dict[str, object] | None = None) -> None:
        self.instrument = make(identifier, settings)
        self.meta = self.instrument.META
        self.cost = _STEPS[self.meta.cost]

    @property
    def key(self) -> str:
        """The instrument's id."""
        return self.meta.id

    def described(self) -> Mapping[str, Series]:
        """The instrument's value."""
        return {self.meta.id: Series(self.meta.title, self.meta.unit, self.meta.source)}

    def measure(self, state: State) -> Measured:
        """Measure on a bench of its own, as the weights have changed since the last time."""
        assert state.bench is not None
        bench = Workbench(state.bench.specimen, state.bench.plan, state.bench.seed)
        reading = measure(self.instrument, bench)
        if reading.verdict.level is Level.NOT_APPLICABLE:
            raise NotApplicableError(reading.verdict.reason)
        if reading.verdict.level is Level.ERROR:
            raise RuntimeError(reading.verdict.reason)
        alerts = []
        if reading.verdict.level in _SEVERITY:
            remedy = reading.remedies[0].action if reading.remedies else ""
            severity = _SEVERITY[reading.verdict.level]
            message = f"{self.meta.title}: {reading.verdict.reason}."
            alerts = [Alert(state.step, self.meta.title.lower(), severity, "", message, remedy)]
        value = reading.value if reading.value is not None else math.nan
        return Measured({} if math.isnan(value) else {self.meta.id: value}, alerts=alerts)
