"""A run's log as the plain data that the report draws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from torchstone._version import __version__
from torchstone.details import Axis, Curve, Detail, Marker, Surface, Table
from torchstone.examination import Examination
from torchstone.report.run import Chapter, RunPage
from torchstone.report.words import counted, duration
from torchstone.watching.condense import condensed
from torchstone.watching.log import WatchLog, latest
from torchstone.watching.notices import alerted_series, notices
from torchstone.watching.record import Series

POINTS = 600
"""Of a line; of more, their mean is drawn with a band from the lowest to the highest."""
_LINES = 8  # layers that are drawn as lines; more become a map
_COLUMNS = 90  # of such a map
_MARKERS = 3  # alerts marked in one plot

# Questions, their plots, and the series of each plot; series of one plot share their unit.
CHAPTERS: tuple[tuple[str, str, tuple[tuple[str, ...], ...]], ...] = (
    ("progress", "Does it learn?", (
        ("loss", "test_loss"), ("probe_accuracy",), ("generalisation_loss",), ("forgotten",), ("never_forgotten",),
    )),
    ("steps", "Are its steps of the right size?", (
        ("sharpness", "stability_limit"), ("stability_edge",), ("alpha",), ("update_ratio",), ("moved",), ("gradient_norm",), ("update_norm",), ("weight_norm",),
        ("step_curvature",), ("step_decrease",), ("lr",),
    )),
    ("noise", "Are its batches of the right size?", (
        ("noise_scale", "norm_test", "inner_product_test", "orthogonality_test"), ("signal_to_noise",),
    )),
    ("layers", "What happens to its layers?", (
        ("activation_health",), ("effective_rank",), ("stable_rank",), ("spectral_norm",), ("weight_outliers",),
        ("weight_spectra",), ("balance_drift",),
    )),
)  # fmt: skip
_LIMITS = {
    "stability_edge": (("edge of stability", 1.0),),
    "alpha": (("minimum along the step", 0.0), ("the loss rises", 1.0)),
    "signal_to_noise": (("as much noise as signal", 1.0),),
}


def run_page(
    log: WatchLog, name: str, examination: Examination | None = None, *, points: int = POINTS
) -> RunPage:
    """What the page of a run shows.

    Args:
        log: The run.
        name: Its name.
        examination: One of the same network, for the same page.
        points: Of a line, at most.
    """
    header = log.header
    lr = f", learning rate {header.lr:g}" if header.lr is not None else ""
    facts = [header.model, f"{header.parameters:,} trainable parameters", f"{header.optimizer}{lr}"]
    if log.records:
        facts.append(f"{counted(_last_step(log), 'step')} in {duration(_seconds(log))}")
    return RunPage(
        name,
        f"Watched run · {header.started.replace('T', ', ').replace('+00:00', ' UTC')}",
        tuple(facts),
        standing(log),
        notices(log.alerts),
        chapters(log, points),
        (_account(log), in_numbers(log)),
        tuple(_circumstances(log)),
        __version__,
        examination,
    )


def name_of(place: str | Path) -> str:
    """What to call a run: its folder."""
    path = Path(place).resolve()
    return (path.parent if path.suffix == ".jsonl" else path).name or "run"


def standing(log: WatchLog) -> str:
    """How it ended, where that is worth saying."""
    if log.summary is None:
        return (
            "This run has not said that it ended: it goes on, was killed, or could no longer write its log."
        )
    ended = str(log.summary.get("ended", "finished"))
    if ended != "finished":
        return f"This run was broken off by {ended}."
    return "" if log.records else "This run ended before anything was measured."


def chapters(log: WatchLog, points: int = POINTS) -> tuple[Chapter, ...]:
    """All curves under the questions that they answer; layers' curves after those of the whole.

    Args:
        log: The run.
        points: Of a line, at most.
    """
    present, found = set(log.names), []
    placed = {name for _, _, plots in CHAPTERS for plot in plots for name in plot}
    others = tuple((name,) for name in (*log.names, *log.layered) if name not in placed)
    for identifier, title, plots in (*CHAPTERS, ("others", "What else was measured", others)):
        details: list[Detail] = []
        for plot in dict.fromkeys(plots):
            names = [name for name in plot if name in present]
            if names:
                details.append(_curve(log, names, points))
            details += [by_layer(log, name, points) for name in plot if name in log.layered]
        if details:
            found.append(Chapter(identifier, title, tuple(details)))
    return tuple(found)


def _curve(log: WatchLog, names: Sequence[str], points: int) -> Curve:
    described = [log.described(name) for name in names]
    first = described[0]
    log_axis = first.log or _is_wide([value for name in names for value in log.series(name)[1]])
    lines = []
    for name, one in zip(names, described, strict=True):
        steps, values = log.series(name)
        lines.append(condensed(one.title, steps, values, points, log=log_axis))
    limits = [Marker(label, value) for name in names for label, value in _LIMITS.get(name, ())]
    said = [alert for alert in log.alerts if set(alerted_series(alert.kind, log)) & set(names)]
    firsts = {alert.kind: alert for alert in reversed(said)}
    marks = [
        Marker(f"{a.kind}, step {a.step:,}", a.step, "x")
        for a in sorted(firsts.values(), key=lambda a: a.step)
    ]
    banded = any(line.low for line in lines)
    sources = [one.source for one in described if one.source]
    caption = "; ".join(dict.fromkeys(sources)).rstrip(".")
    return Curve(
        " and ".join((first.title, *(one.title.lower() for one in described[1:2])))
        if len(described) <= 2
        else f"{first.title} and {len(described) - 1} others",
        Axis("step"),
        _height(first, log_axis),
        tuple(lines),
        (*limits, *marks[:_MARKERS]),
        caption=caption[:1].upper()
        + caption[1:]
        + ("." if caption else "")
        + (
            " Lines are means of neighbouring records, bands reach from the lowest to the highest."
            if banded
            else ""
        ),
    )


def by_layer(log: WatchLog, name: str, points: int = POINTS) -> Detail:
    """One series of all layers: lines of few, a map of many."""
    one, layers = log.described(name), log.layers(name)
    title = f"{one.title}, by layer"
    if len(layers) <= _LINES:
        lines = [
            condensed(layer, *series, points // 2, log=one.log, band=False)
            for layer, series in layers.items()
        ]
        return Curve(title, Axis("step"), _height(one), tuple(lines))
    steps = sorted({step for steps, _ in layers.values() for step in steps})
    size = max(1, math.ceil(len(steps) / _COLUMNS))
    chunks = [steps[start : start + size] for start in range(0, len(steps), size)]
    column = {step: j for j, chunk in enumerate(chunks) for step in chunk}
    grid = []
    for layer_steps, values in layers.values():
        cells: list[list[float]] = [[] for _ in chunks]
        for step, value in zip(layer_steps, values, strict=True):
            if math.isfinite(value):
                cells[column[step]].append(value)
        grid.append(tuple(_median(cell) for cell in cells))
    said = ["The first layer is on top."]
    if size > 1:
        said.append("Cells are medians of neighbouring records.")
    if one.log and any(cell <= 0 for row in grid for cell in row):
        said.append("Empty cells are zeros.")
    return Surface(
        title,
        Axis("step"),
        Axis("layer"),
        _height(one),
        tuple(float(chunk[-1]) for chunk in chunks),
        tuple(map(float, range(len(grid)))),
        tuple(grid),
        " ".join(said),
        rows=tuple(layers),
    )


def _height(one: Series, log: bool | None = None) -> Axis:
    """The title stands above the plot, so that the unit is enough."""
    return Axis(one.unit or one.title, log=one.log if log is None else log)


def _is_wide(values: Sequence[float]) -> bool:
    """Whether a few large values would press all others to the bottom of a plot: the loss of a run that has diverged."""
    finite = [value for value in values if math.isfinite(value)]
    return bool(finite) and min(finite) > 0 and max(finite) > 30 * _median(finite)


def _median(cell: list[float]) -> float:
    ordered = sorted(cell)
    return ordered[len(ordered) // 2] if ordered else math.nan


def in_numbers(log: WatchLog) -> Table:
    """Each series in a few numbers."""
    rows = []
    for name in log.names:
        _, values = log.series(name)
        finite = [value for value in values if math.isfinite(value)]
        ends = (
            (finite[0], min(finite), max(finite), latest(values))
            if finite
            else (None, None, None, latest(values))
        )
        one = log.described(name)
        rows.append((f"{one.title} ({one.unit})" if one.unit else one.title, *ends, len(values)))
    return Table("In numbers", ("series", "first", "lowest", "highest", "latest", "records"), tuple(rows))


def _account(log: WatchLog) -> Table:
    taken = (log.summary or {}).get("quantities")
    if not isinstance(taken, dict):
        counts = [(log.described(name).title, len(log.series(name)[0])) for name in log.names]
        return Table("What was measured how often", ("series", "times"), tuple(counts),
                     "What it cost is told when the run ends.")  # fmt: skip
    rows = []
    for name, one in taken.items():
        times, seconds = int(one["times"]), float(one["seconds"])
        rows.append((name, times, seconds, 1000 * seconds / times if times else None))
    columns = ("quantity", "times", "seconds in total", "milliseconds each")
    caption = "What was never measured costs more than its share of the training time has covered yet."
    return Table(
        "What was measured how often", columns, tuple(rows), caption if any(not r[1] for r in rows) else ""
    )


def _circumstances(log: WatchLog) -> list[tuple[str, str]]:
    header = log.header
    often = (
        "when its share of the time covers it" if header.every == "auto" else f"every {header.every} steps"
    )
    rows = [("Measured", often)]
    if header.every == "auto":
        rows.append(("Budget", f"{header.budget:.0%} of the training time"))
    overhead = (log.summary or {}).get("overhead")
    if isinstance(overhead, int | float):
        rows.append(("Taken", f"{overhead:.1%} of the training time, writing the log included"))
    rows.append(("Format", f"watch.jsonl, version {header.version}"))
    if header.resumed:
        rows.append(("Resumed", f"after step {header.resumed:,}"))
    left_out = (log.summary or {}).get("left_out")
    for name, reason in (left_out if isinstance(left_out, dict) else {}).items():
        rows.append((f"Not measured: {name}", str(reason)))
    if log.damaged:
        rows.append(("Left out", f"{log.damaged} damaged lines of the log"))
    return rows


def _last_step(log: WatchLog) -> int:
    steps = (log.summary or {}).get("steps")
    return int(steps) if isinstance(steps, int) else log.records[-1].step


def _seconds(log: WatchLog) -> float:
    seconds = (log.summary or {}).get("seconds")
    return log.seconds_before + seconds if isinstance(seconds, int | float) else log.records[-1].seconds
