"""Eigenvalues or singular values by rank, with their residuals."""

from __future__ import annotations

import math
from typing import Any

from torchstone.details import Axis, Marker, Spectrum, thin
from torchstone.report.figures.frame import Figure, axis, colour, frame, reference_lines, short
from torchstone.report.resolution import Resolution


def spectrum(detail: Spectrum, resolution: Resolution) -> Figure:
    """Dots by rank. On a logarithmic axis negative values are drawn hollow, at their magnitude."""
    kept = thin(len(detail.values), resolution.points)
    log = detail.log and any(value and math.isfinite(value) for value in detail.values)
    negative = [i for i in kept if detail.values[i] < 0] if log else []
    positive = [i for i in kept if not (log and detail.values[i] <= 0)]
    traces = [_dots(detail, positive, "positive" if negative else "value", hollow=False)]
    if negative:
        traces.append(_dots(detail, negative, "negative (magnitude)", hollow=True))
    ranks = axis(Axis("rank"))
    magnitudes = [abs(detail.values[i]) for i in (*positive, *negative)]
    sizes = axis(Axis("|value|" if negative else "value", detail.unit), magnitudes, log=log)
    across = [
        Marker(m.label, m.value, m.axis) for m in detail.markers if m.value > 0 or m.axis == "x" or not log
    ]
    shapes = reference_lines(across)
    layout = frame(ranks, sizes, legend=bool(negative or shapes), shapes=shapes)
    return {"data": traces, "layout": layout}


def _dots(detail: Spectrum, kept: list[int], name: str, *, hollow: bool) -> dict[str, Any]:
    stroke = colour(1 if hollow else 0)
    many = len(kept) > 150
    trace: dict[str, Any] = {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [i + 1 for i in kept],
        "y": [short(abs(detail.values[i]) if hollow else detail.values[i]) for i in kept],
        "marker": {
            "color": stroke,
            "size": 4 if many else 7,
            "symbol": "circle-open" if hollow else "circle",
            "line": {"color": stroke, "width": 1.5},
        },
        "hovertemplate": "rank %{x}: %{y:.4g}",
    }
    if detail.residuals:
        sizes = [short(abs(detail.residuals[i])) for i in kept]
        trace["error_y"] = {
            "type": "data",
            "array": [size or 0 for size in sizes],
            "color": stroke,
            "thickness": 1.2,
            "width": 3,
        }
    return trace
