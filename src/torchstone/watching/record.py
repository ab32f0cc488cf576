"""What a watched run leaves behind: plain data, one record a measured step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

VERSION = 1


@dataclass(frozen=True)
class Series:
    """One number over the steps, as a plot needs to know it.

    Attributes:
        title: What it is.
        unit: Its unit.
        source: Where it comes from.
        log: Whether it is best seen on a logarithmic axis.
    """

    title: str
    unit: str = ""
    source: str = ""
    log: bool = False


@dataclass(frozen=True)
class Header:
    """What is watched.

    Attributes:
        started: ISO time.
        model: Class of the model.
        parameters: Number of trainable parameters.
        optimizer: Class of the optimiser.
        lr: Learning rate at the start.
        every: How often is measured, as asked for.
        budget: Share of the training time that measuring may take, with every="auto".
        series: The numbers that may occur, by name.
        version: Of this format.
        resumed: Steps that the run had taken before, where it was resumed.
    """

    started: str
    model: str
    parameters: int
    optimizer: str
    lr: float | None
    every: str
    budget: float
    series: Mapping[str, Series] = field(default_factory=dict)
    version: int = VERSION
    resumed: int = 0


@dataclass(frozen=True)
class Record:
    """What was measured after one optimiser step.

    Attributes:
        step: Counted from 1.
        seconds: Since the beginning.
        values: Numbers by name; may be NaN or infinite.
        layers: Numbers by name and layer.
    """

    step: int
    seconds: float
    values: Mapping[str, float]
    layers: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def not_finite(self) -> tuple[str, ...]:
        """Names of values that are NaN or infinite."""
        return tuple(name for name, value in self.values.items() if not math.isfinite(value))


@dataclass(frozen=True)
class Alert:
    """Something that goes wrong, said when it begins.

    Attributes:
        step: When.
        kind: Such as "diverging", "vanishing", "dead units", "past the stability edge".
        severity: "attention" or "poor".
        layer: Where, or "".
        message: One sentence.
        remedy: What to do.
    """

    step: int
    kind: str
    severity: str
    layer: str
    message: str
    remedy: str


def plain(part: Any) -> dict[str, Any]:
    """A header, record or alert as JSON can hold it: numbers that are not finite become null and are named."""
    body: dict[str, Any] = {}
    for name, value in vars(part).items():
        body[name] = _plain(value)
    if isinstance(part, Record) and part.not_finite:
        body["not_finite"] = {name: str(part.values[name]) for name in part.not_finite}
    return body


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Series):
        return dict(vars(value))
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def record_of(body: Mapping[str, Any]) -> Record:
    """The record that `plain` wrote."""
    values = {name: math.nan if value is None else float(value) for name, value in body["values"].items()}
    values |= {name: float(text) for name, text in body.get("not_finite", {}).items()}
    layers = {
        name: {layer: math.nan if value is None else float(value) for layer, value in parts.items()}
        for name, parts in body.get("layers", {}).items()
    }
    return Record(int(body["step"]), float(body["seconds"]), values, layers)


def header_of(body: Mapping[str, Any]) -> Header:
    """The header that `plain` wrote."""
    series = {str(name): Series(**_texts(one, log=bool)) for name, one in body.get("series", {}).items()}
    lr = body.get("lr")
    return Header(
        started=str(body["started"]),
        model=str(body["model"]),
        parameters=int(body["parameters"]),
        optimizer=str(body["optimizer"]),
        lr=float(lr) if lr is not None else None,
        every=str(body["every"]),
        budget=float(body["budget"]),
        series=series,
        resumed=int(body.get("resumed", 0)),
    )


def alert_of(body: Mapping[str, Any]) -> Alert:
    """The alert that `plain` wrote."""
    return Alert(**_texts(body, step=int))


def _texts(body: Mapping[str, Any], **others: Any) -> dict[str, Any]:
    """Texts, and what is something else by its kind."""
    return {name: others.get(name, str)(value) for name, value in body.items()}
