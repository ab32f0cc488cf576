"""Any instrument of the examination, asked again and again while training goes on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from torchstone.details import Scalars, Table
from torchstone.errors import NotApplicableError
from torchstone.instruments.catalogue import make
from torchstone.instruments.measurement import measure
from torchstone.reading import CostClass, Level, Reading
from torchstone.watching.alerts import PAST_EDGE
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


@dataclass(frozen=True)
class _Told:
    """What of a reading's details is watched besides its value.

    Attributes:
        value: What the value is called on a page; the instrument's title where empty.
        kind: Of its alert.
        levels: Verdicts that are alerts during training.
        scalars: Places of numbers in the first group of them, by the series they become.
        layers: Of a table by layer: the series it becomes, its title and the column's.
        worst: Whether the largest or the smallest of the layers is the worst: `max`, `min` or nothing.
    """

    value: Series | None = None
    kind: str = ""
    levels: tuple[Level, ...] = (Level.ATTENTION, Level.POOR)
    scalars: Mapping[str, tuple[int, Series]] = field(default_factory=dict)
    layers: tuple[str, str, str] | None = None
    worst: str = ""
    beyond: float = -math.inf
    """What the worst layer has to exceed for the alert to be about layers."""
    fallen: bool = False
    """Whether the worst layer has to have lost half of its largest value: what was so from the start is no news."""


_TOLD = {
    "stability_edge": _Told(
        kind=PAST_EDGE,
        levels=(Level.POOR,),
        scalars={
            "sharpness": (
                0,
                Series(
                    "Largest eigenvalue of the (preconditioned) Hessian",
                    "loss / weight^2",
                    "Cohen et al. 2021",
                    log=True,
                ),
            ),
            "stability_limit": (
                1,
                Series("Largest stable one", "loss / weight^2", "2 / learning rate and its like", log=True),
            ),
        },
    ),
    "activation_health": _Told(
        Series("Dead units", "share of units", "flat at every example of the probe"),
        kind="dead units",
        layers=("activation_health", "Activations", "dead (share)"),
        worst="max",
        beyond=0.25,
    ),
    "effective_rank": _Told(layers=("effective_rank", "Layers", "effective rank"), worst="min", fallen=True),
    # Young weights look under-trained to it, and are.
    "weight_spectra": _Told(levels=(), layers=("weight_outliers", "Weights", "outliers")),
}
_LAYER_SERIES = {
    "weight_outliers": Series(
        "Directions of the weights beyond random", "directions", "Martin & Mahoney 2021: outliers"
    )
}


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
        self.told = _TOLD.get(self.meta.id, _Told())
        self.kinds = tuple(filter(None, (self.told.kind, self.meta.title.lower())))

        self._largest: dict[str, float] = {}

    @property
    def key(self) -> str:
        """The instrument's id."""
        return self.meta.id

    def described(self) -> Mapping[str, Series]:
        """The instrument's value, and what else of its reading is watched."""
        value = self.told.value or Series(self.meta.title, self.meta.unit, self.meta.source)
        described = {self.meta.id: value, **{name: one for name, (_, one) in self.told.scalars.items()}}
        if self.told.layers is not None and self.told.layers[0] in _LAYER_SERIES:
            described[self.told.layers[0]] = _LAYER_SERIES[self.told.layers[0]]
        return described

    def measure(self, state: State) -> Measured:
        """Measure on a bench of its own, as the weights have changed since the last time."""
        assert state.bench is not None
        bench = Workbench(state.bench.specimen, state.bench.plan, state.bench.seed)
        reading = measure(self.instrument, bench)
        if reading.verdict.level is Level.NOT_APPLICABLE:
            raise NotApplicableError(reading.verdict.reason)
        if reading.verdict.level is Level.ERROR:
            raise RuntimeError(reading.verdict.reason)
        values = {} if reading.value is None or math.isnan(reading.value) else {self.meta.id: reading.value}
        values |= self._scalars(reading)
        layers = self._layers(reading)
        self._largest |= {name: max(value, self._largest.get(name, value)) for name, value in layers.items()}
        if self.told.layers is not None and (name := self.told.layers[0]) != self.meta.id and layers:
            values[name] = math.fsum(layers.values())
        by_layer = {self.told.layers[0]: layers} if self.told.layers is not None and layers else {}
        return Measured(values, by_layer, self._alerts(reading, state.step, layers))

    def _scalars(self, reading: Reading) -> dict[str, float]:
        items = next((detail.items for detail in reading.details if isinstance(detail, Scalars)), ())
        return {name: items[i].value for name, (i, _) in self.told.scalars.items() if i < len(items)}

    def _layers(self, reading: Reading) -> dict[str, float]:
        """A column of a table, by the table's first column."""
        if self.told.layers is None:
            return {}
        _, title, column = self.told.layers
        for detail in reading.details:
            if isinstance(detail, Table) and detail.title == title and column in detail.columns:
                place = detail.columns.index(column)
                cells = [(str(row[0]), row[place]) for row in detail.rows]
                return {layer: float(cell) for layer, cell in cells if isinstance(cell, int | float)}
        return {}

    def _alerts(self, reading: Reading, step: int, layers: Mapping[str, float]) -> list[Alert]:
        level = reading.verdict.level
        if level not in self.told.levels:
            return []
        remedy = reading.remedies[0].action if reading.remedies else ""
        reason = reading.verdict.reason
        message = f"{reading.headline} {reason[:1].upper()}{reason[1:]}."
        kind, layer = self.kinds[0], ""
        if layers and self.told.worst:
            # Of those that fall it is the one that has lost most: a layer of one output has no more to lose.
            height = lambda one: (
                layers[one] / (self._largest[one] or 1.0) if self.told.fallen else layers[one]
            )
            layer = (max if self.told.worst == "max" else min)(layers, key=height)
            if self.told.fallen and height(layer) > 0.5:
                return []
            if not layers[layer] > self.told.beyond:
                kind, layer = self.kinds[-1], ""
        return [Alert(step, kind, _SEVERITY[level], layer, message, remedy)]
