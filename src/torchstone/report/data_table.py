"""The numbers behind a plot as a short table: every line's shape in a dozen rows, the rest in the JSON file."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torchstone.details import (
    Axis,
    Cell,
    Curve,
    Detail,
    Histogram,
    Line,
    Scatter,
    Spectrum,
    Surface,
    Table,
    thin,
)
from torchstone.report.words import counted

ROWS = 12
_MOST_COLUMNS = 8


def data_table(detail: Detail) -> Table | None:
    """At most a few dozen evenly spaced rows of what a plot shows; None for what is a table already."""
    match detail:
        case Curve():
            return _curve(detail)
        case Histogram():
            return _histogram(detail)
        case Spectrum():
            kept = thin(len(detail.values), ROWS)
            columns = ("rank", _headed("value", detail.unit), *(["residual"] if detail.residuals else []))
            # The slice is empty where there are no residuals.
            rows = [(i + 1, detail.values[i], *detail.residuals[i : i + 1]) for i in kept]
            return _table(columns, rows, len(detail.values))
        case Surface():
            return _surface(detail)
        case Scatter():
            return _scatter(detail)
        case _:
            return None


def _curve(detail: Curve) -> Table:
    lines = detail.lines[: _MOST_COLUMNS - 1]
    if lines and all(line.x == lines[0].x and line.y and not line.low for line in lines):
        kept = thin(len(lines[0].x), ROWS)
        columns = (_of(detail.x), *(line.name for line in lines))
        place = lambda i: _tick(detail, lines[0].x[i])
        rows = [(place(i), *(line.y[i] for line in lines)) for i in kept]
        return _table(columns, rows, len(lines[0].x))
    banded = any(line.low for line in detail.lines)
    columns = ("line", _of(detail.x), _of(detail.y), *(("low", "high") if banded else ()))
    shown = detail.lines[:ROWS]
    each = max(3, 3 * ROWS // max(1, len(shown)))
    rows = [
        (line.name, _tick(detail, line.x[i]), line.y[i], *(_ends(line, i) if banded else ()))
        for line in shown
        for i in thin(len(line.y), each)
    ]
    return _table(columns, rows, sum(len(line.x) for line in detail.lines))


def _tick(detail: Curve, x: float) -> Cell:
    return detail.tick_names().get(x, x)


def _ends(line: Line, i: int) -> tuple[Cell, Cell]:
    return (line.low[i] if line.low else None, line.high[i] if line.high else None)


def _histogram(detail: Histogram) -> Table:
    groups = detail.groups[: _MOST_COLUMNS - 2]
    bins = max(0, len(detail.edges) - 1)
    # Neighbouring bins are added up, so that the table's counts have the plot's total.
    cuts = thin(bins + 1, ROWS + 1) if bins else []
    rows = [
        (detail.edges[a], detail.edges[b], *(sum(group.counts[a:b]) for group in groups))
        for a, b in pairwise(cuts)
    ]
    columns = (f"{_of(detail.x)} from", "to", *(group.name for group in groups))
    note = f"{bins} bins, added up to {len(rows)}." if bins > len(rows) else ""
    return Table("", columns, tuple(rows), note)


def _surface(detail: Surface) -> Table:
    down, across = thin(len(detail.y), _MOST_COLUMNS), thin(len(detail.x), _MOST_COLUMNS - 1)
    corner = f"{_of(detail.y_axis)} \\ {_of(detail.x_axis)}"
    columns = (corner, *(f"{detail.x[j]:.4g}" for j in across))
    names = detail.rows or detail.y
    rows = [(names[i], *(detail.z[i][j] for j in across)) for i in down]
    return _table(columns, rows, len(detail.y), what="row of the grid", whats="rows of the grid")


def _scatter(detail: Scatter) -> Table:
    extra = [name for name, values in (("group", detail.groups), ("text", detail.texts)) if values]
    rows = [
        (
            detail.x[i],
            detail.y[i],
            *([detail.groups[i]] if detail.groups else []),
            *([detail.texts[i]] if detail.texts else []),
        )
        for i in thin(len(detail.x), ROWS)
    ]
    return _table((_of(detail.x_axis), _of(detail.y_axis), *extra), rows, len(detail.x))


def _table(
    columns: Sequence[str],
    rows: Sequence[tuple[Cell, ...]],
    total: int,
    what: str = "point",
    whats: str = "",
) -> Table:
    note = (
        f"{len(rows)} of {counted(total, what, whats)}; all of them are in the JSON file."
        if total > len(rows)
        else ""
    )
    return Table("", tuple(columns), tuple(rows), note)


def _of(axis: Axis) -> str:
    return _headed(axis.label, axis.unit)


def _headed(label: str, unit: str) -> str:
    return f"{label} ({unit})" if unit else label
