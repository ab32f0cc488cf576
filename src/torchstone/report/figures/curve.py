"""Lines with bands over a common pair of axes."""

from __future__ import annotations

import math
from typing import Any

from torchstone.details import Curve, Line, thin
from torchstone.report.escaping import for_plot
from torchstone.report.figures.frame import (
    Figure,
    axis,
    can_be_log,
    colour,
    dash,
    frame,
    named_ticks,
    reference_lines,
    short,
    shorts,
    shown_markers,
)
from torchstone.report.palette import family, translucent
from torchstone.report.resolution import Resolution

_DOTS_UP_TO = 25  # points of a line that are few enough to be drawn one by one
_TOLD_APART = 8  # lines that colours and dashes tell apart; more are drawn as an ordered family


def curve(detail: Curve, resolution: Resolution) -> Figure:
    """One trace a line, two more for its band."""
    xs = [value for line in detail.lines for value in line.x]
    ys = [value for line in detail.lines for value in (*line.y, *line.low, *line.high)]
    x_log, y_log = can_be_log(detail.x, xs), can_be_log(detail.y, ys)
    many = len(detail.lines) > _TOLD_APART
    traces: list[dict[str, Any]] = []
    for i, line in enumerate(detail.lines):
        stroke = family(i, len(detail.lines)) if many else colour(i)
        kept = thin(len(line.x), resolution.points)
        if not many:
            traces += _band(line, kept, stroke, y_log)
        traces.append(_line(line, kept, stroke, "solid" if many else dash(i), x_log, y_log))
    shapes = reference_lines(shown_markers(detail.markers, x_log, y_log))
    x_axis = axis(detail.x, xs, log=x_log)
    if detail.ticks:
        names = detail.tick_names()
        x_axis |= named_ticks(tuple(names.values()), tuple(names))
    several = len(detail.lines) > 1 or bool(shapes)
    unified = {"hovermode": "x unified"} if 1 < len(detail.lines) <= _TOLD_APART else {}
    layout = frame(x_axis, axis(detail.y, ys, log=y_log), legend=several, shapes=shapes, **unified)
    return {"data": traces, "layout": layout}


def _line(line: Line, kept: list[int], stroke: str, dashed: str, x_log: bool, y_log: bool) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers" if len(line.x) <= _DOTS_UP_TO else "lines",
        "name": for_plot(line.name, 40),
        "x": shorts((line.x[i] for i in kept), x_log),
        "y": shorts((line.y[i] for i in kept), y_log),
        "line": {"color": stroke, "width": 2, "dash": dashed},
        "marker": {"color": stroke, "size": 5},
        "hovertemplate": "%{y:.4g}",
    }


def _band(line: Line, kept: list[int], stroke: str, y_log: bool) -> list[dict[str, Any]]:
    if not (line.low and line.high):
        return []
    solid = [
        i
        for i in kept
        if math.isfinite(line.low[i]) and math.isfinite(line.high[i]) and (line.low[i] > 0 or not y_log)
    ]
    edge = {
        "type": "scatter",
        "mode": "lines",
        "line": {"width": 0, "color": stroke},
        "x": [short(line.x[i]) for i in solid],
        "hoverinfo": "skip",
        "showlegend": False,
    }
    below = edge | {"y": [short(line.low[i]) for i in solid]}
    above = edge | {
        "y": [short(line.high[i]) for i in solid],
        "fill": "tonexty",
        "fillcolor": translucent(stroke),
    }
    return [below, above]
