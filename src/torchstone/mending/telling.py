"""A comparison as a reading, so that every report can show it."""

from __future__ import annotations

import math
from dataclasses import replace

from torchstone.details import Axis, Curve, Detail, Line, Marker, Table, numbers, thin
from torchstone.mending.comparison import Comparison, Stage
from torchstone.reading import (
    Cost,
    CostClass,
    Level,
    Meta,
    Need,
    Question,
    Reading,
    Verdict,
)

META = Meta(
    id="remedy_tried",
    question=Question.TRAINABILITY,
    title="Remedy tried",
    asks="Would the remedy help?",
    cost=CostClass.SECONDS,
    needs=(Need.TRAIN,),
    unit="",
    source="",
)
_RANKS = {Level.GOOD: 0, Level.ATTENTION: 1, Level.POOR: 2}
_MOST_CHANGES, _MOST_PLACES = 60, 6


def told(comparison: Comparison) -> Reading:
    """The comparison in words, with a table of readings before and after, and both networks' curves in one plot."""
    trial = str(comparison.mended.trial)
    better, worse = moved(comparison.stages[-1])
    reading = Reading.of(
        META,
        value=None,
        verdict=Verdict(Level.INFORMATIVE, _tally(comparison, better, worse)),
        headline=f"{trial}: {_headline(comparison)}",
        explanation=(
            "The remedy was applied to a copy of the network, and the same instruments measured the copy without and with "
            "it on the same data. "
            + (
                "Both were then trained alike, in the same order of examples. "
                if comparison.runs
                else "A good start is necessary for training, not sufficient. "
            )
            + "The examined network was not changed."
        ),
        details=tuple(_details(comparison)),
        notes=(
            comparison.mended.start,
            *(f"Training stopped: {r.stopped}" for r in comparison.runs if r.stopped),
        ),
    )
    readings = [
        r for stage in comparison.stages for part in (stage.before, stage.after) for r in part.values()
    ]
    cost = Cost(
        seconds=round(comparison.seconds, 4),
        forward_passes=sum(r.cost.forward_passes for r in readings) + 2 * comparison.epochs,
        backward_passes=sum(r.cost.backward_passes for r in readings) + 2 * comparison.epochs,
        peak_bytes=max((r.cost.peak_bytes for r in readings), default=0),
    )
    return replace(reading, cost=cost, settings={"remedy": trial, "epochs": comparison.epochs})


def moved(stage: Stage) -> tuple[list[str], list[str]]:
    """Titles of the instruments whose verdict the remedy made better, and of those that it made worse."""
    better, worse = [], []
    for one, other in stage.pairs():
        ranks = [_RANKS.get(reading.verdict.level) for reading in (one, other)]
        if ranks[0] is None or ranks[1] is None or ranks[0] == ranks[1]:
            continue
        (better if ranks[1] < ranks[0] else worse).append(one.title)
    return better, worse


def _tally(comparison: Comparison, better: list[str], worse: list[str]) -> str:
    name, count = comparison.stages[-1].name, len(comparison.stages[-1].pairs())
    return f"{name}: {len(better)} of {count} verdicts better, {len(worse)} worse"


def _headline(comparison: Comparison) -> str:
    parts = []
    if comparison.runs:
        one, other = comparison.runs
        word = "epoch" if comparison.epochs == 1 else "epochs"
        parts.append(
            f"after {comparison.epochs} {word} the training loss is {_loss(other.train)} instead of {_loss(one.train)}"
        )
    better, worse = moved(comparison.stages[0])
    lower = lambda titles: ", ".join(title[0].lower() + title[1:] for title in titles)
    if better:
        parts.append(f"untrained, better in {lower(better)}")
    if worse:
        parts.append(f"untrained, worse in {lower(worse)}")
    if not better and not worse:
        parts.append("untrained, no verdict changes")
    return "; ".join(parts) + "."


def _loss(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "infinite (diverged)"


def _details(comparison: Comparison) -> list[Detail]:
    details: list[Detail] = [before_and_after(comparison)]
    if comparison.runs and any(run.losses for run in comparison.runs):
        details.append(_training(comparison))
    details += _curves(comparison.stages[0])
    details.append(_changes(comparison))
    return details


def _changes(comparison: Comparison) -> Table:
    """Equal changes together, with the first of their places."""
    places: dict[str, list[str]] = {}
    for name, what in comparison.mended.changes.items():
        places.setdefault(what, []).append(name or "the model")
    shown = [list(places)[i] for i in thin(len(places), _MOST_CHANGES)]
    rows = tuple(
        (what, len(names), ", ".join(names[:_MOST_PLACES]) + (", …" if len(names) > _MOST_PLACES else ""))
        for what, names in ((what, places[what]) for what in shown)
    )
    more = f" {len(places) - len(rows)} more kinds are not shown." if len(rows) < len(places) else ""
    return Table("What was changed", ("what", "places", "where"), rows, f"On a copy of the network.{more}")


def before_and_after(comparison: Comparison) -> Table:
    """One row a reading and stage: both numbers and both verdicts."""
    rows = []
    for stage in comparison.stages:
        for one, other in stage.pairs():
            unit = one.unit if one.measured else other.unit
            numbers_ = [reading.value if reading.measured else None for reading in (one, other)]
            words = [reading.verdict.level.value.replace("_", " ") for reading in (one, other)]
            rows.append((f"{one.title}, {unit}" if unit else one.title, stage.name, *numbers_, *words))
    for run, title in ((0, "training loss"), (1, "test loss")):
        if comparison.runs:
            values = [(one.train, one.test)[run] for one in comparison.runs]
            if None not in values:
                words = [("diverged" if one.stopped else "") for one in comparison.runs]
                rows.append((title, comparison.stages[-1].name, *values, *words))
    return Table(
        "Before and after",
        ("reading", "when", "before", "after", "verdict before", "verdict after"),
        tuple(rows),
        "Before: the network as it is built. After: with the remedy.",
    )


def _training(comparison: Comparison) -> Curve:
    lines = [
        Line(name, numbers(range(1, len(run.losses) + 1)), run.losses)
        for name, run in zip(("before", "after"), comparison.runs, strict=True)
        if run.losses
    ]
    return Curve(
        "Training loss",
        Axis("epoch"),
        Axis("mean training loss"),
        tuple(lines),
        caption="Mean over the examples of each epoch, each taken just before the update it entered.",
    )


def _curves(stage: Stage) -> list[Curve]:
    """Curves that both networks have, in one plot each."""
    found = []
    for one, other in stage.pairs():
        for first in (detail for detail in one.details if isinstance(detail, Curve)):
            matching = [d for d in other.details if isinstance(d, Curve) and d.title == first.title]
            if not matching or not first.lines or not matching[0].lines or first.x != matching[0].x:
                continue
            lines = [
                Line(name, line.x, line.y, line.low, line.high)
                for name, line in (("before", first.lines[0]), ("after", matching[0].lines[0]))
            ]
            found.append(
                Curve(
                    f"{first.title}, untrained",
                    first.x,
                    first.y,
                    tuple(lines),
                    _markers(first),
                    caption=first.caption,
                )
            )
    return found


def _markers(curve: Curve) -> tuple[Marker, ...]:
    """Those that say the same of both networks: not a mark at one network's own value."""
    return tuple(marker for marker in curve.markers if marker.label != "last")
