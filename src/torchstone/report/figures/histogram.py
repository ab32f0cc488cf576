"""Counts between edges, as outlines: bins may have any widths, and several groups stay readable on top of each other."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

from torchstone.details import Histogram, thin
from torchstone.report.escaping import for_plot
from torchstone.report.figures.frame import (
    Figure,
    axis,
    can_be_log,
    colour,
    dash,
    frame,
    reference_lines,
    short,
    shorts,
    shown_markers,
)
from torchstone.report.palette import translucent
from torchstone.report.resolution import Resolution


def histogram(detail: Histogram, resolution: Resolution) -> Figure:
    """One stepped, filled outline a group, from zero to zero."""
    x_log = can_be_log(detail.x, detail.edges) and detail.edges[0] > 0
    edges, grouped = _merged(detail, resolution.points)
    traces: list[dict[str, Any]] = []
    for i, counts in enumerate(grouped):
        if not counts:
            continue
        # Each count holds from its edge to the next one; the outline starts and ends on the axis.
        steps = [0.0, *counts, 0.0]
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": for_plot(detail.groups[i].name, 40),
                "x": [short(edges[0]), *shorts(edges)],
                "y": shorts(steps),
                "line": {"color": colour(i), "width": 1.6, "dash": dash(i), "shape": "hv"},
                "fill": "tozeroy",
                "fillcolor": translucent(colour(i)),
                "hovertemplate": "%{y:.4g} from %{x:.4g}",
            }
        )
    shapes = reference_lines(shown_markers(detail.markers, x_log, False))
    several = len(detail.groups) > 1 or bool(shapes)
    y_axis = axis(detail.y) | {"rangemode": "tozero"}
    layout = frame(axis(detail.x, edges, log=x_log), y_axis, legend=several, shapes=shapes)
    return {"data": traces, "layout": layout}


def _merged(detail: Histogram, most: int) -> tuple[list[float], list[list[float]]]:
    """Edges and counts, with neighbouring bins added up where there are too many."""
    kept = thin(len(detail.edges), most)
    edges = [detail.edges[i] for i in kept]
    pairs = list(pairwise(kept))
    count = lambda group, a, b: sum(c for c in group.counts[a:b] if math.isfinite(c))
    return edges, [[count(group, a, b) for a, b in pairs] for group in detail.groups]
