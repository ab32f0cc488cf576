"""Points, in groups told apart by colour and symbol, with a text each on hover."""

from __future__ import annotations

from typing import Any

from torchstone.details import Scatter, thin
from torchstone.report.escaping import for_plot
from torchstone.report.figures.frame import (
    SYMBOLS,
    Figure,
    axis,
    can_be_log,
    colour,
    frame,
    reference_lines,
    shorts,
    shown_markers,
)
from torchstone.report.resolution import Resolution

_MOST_GROUPS = 12  # more share the last symbol under "other"


def scatter(detail: Scatter, resolution: Resolution) -> Figure:
    """One trace a group, in the order in which groups appear."""
    x_log, y_log = can_be_log(detail.x_axis, detail.x), can_be_log(detail.y_axis, detail.y)
    members: dict[str, list[int]] = {}
    for i in thin(len(detail.x), resolution.points):
        members.setdefault(detail.groups[i] if detail.groups else "", []).append(i)
    names = list(members)
    if len(names) > _MOST_GROUPS:
        rest = [i for name in names[_MOST_GROUPS - 1 :] for i in members[name]]
        members = {name: members[name] for name in names[: _MOST_GROUPS - 1]} | {"other": rest}
    traces = [_dots(detail, kept, name, i, x_log, y_log) for i, (name, kept) in enumerate(members.items())]
    shapes = reference_lines(shown_markers(detail.markers, x_log, y_log))
    layout = frame(
        axis(detail.x_axis, detail.x, log=x_log),
        axis(detail.y_axis, detail.y, log=y_log),
        legend=len(members) > 1 or bool(shapes),
        shapes=shapes,
    )
    return {"data": traces, "layout": layout | {"height": 360}}


def _dots(
    detail: Scatter, kept: list[int], name: str, index: int, x_log: bool, y_log: bool
) -> dict[str, Any]:
    crowded = len(detail.x) > 300
    trace: dict[str, Any] = {
        "type": "scatter",
        "mode": "markers",
        "name": for_plot(name, 40),
        "x": shorts((detail.x[i] for i in kept), x_log),
        "y": shorts((detail.y[i] for i in kept), y_log),
        "marker": {
            "color": colour(index),
            "symbol": SYMBOLS[index % len(SYMBOLS)],
            "size": 5 if crowded else 8,
            "opacity": 0.7 if crowded else 0.9,
        },
        "hovertemplate": "%{x:.4g}, %{y:.4g}",
    }
    if detail.texts:
        trace["text"] = [for_plot(detail.texts[i], 80) for i in kept]
        trace["hovertemplate"] = "%{text}<br>%{x:.4g}, %{y:.4g}"
    if not name:
        trace["hovertemplate"] += "<extra></extra>"
    return trace
