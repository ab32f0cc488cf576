"""A function on a grid, as a map of colours, and where the grid is fine enough with contour lines and as a relief."""

from __future__ import annotations

import math
from typing import Any

from torchstone.details import Line, Surface, thin
from torchstone.report.escaping import for_plot
from torchstone.report.figures.frame import (
    Figure,
    axis,
    axis_title,
    can_be_log,
    frame,
    named_ticks,
    short,
    shorts,
)
from torchstone.report.palette import GRID_LIGHT, INK_LIGHT, PAPER_LIGHT, SEQUENTIAL
from torchstone.report.resolution import Resolution

_CONTOURS_FROM = 12  # grid lines on both axes; coarser grids show their cells


def surface(detail: Surface, resolution: Resolution) -> Figure:
    """Heat map, or contours with a button for a relief; a logarithmic height is shown as its decimal logarithm."""
    rows, columns = thin(len(detail.y), resolution.grid), thin(len(detail.x), resolution.grid)
    z_log = can_be_log(detail.z_axis, *detail.z)
    x_log, y_log = can_be_log(detail.x_axis, detail.x), can_be_log(detail.y_axis, detail.y)
    shown = _logarithm if z_log else short
    fine = min(len(rows), len(columns)) >= _CONTOURS_FROM and not detail.rows
    label = axis_title(detail.z_axis)
    trace: dict[str, Any] = {
        "type": "contour" if fine else "heatmap",
        "x": shorts((detail.x[j] for j in columns), x_log),
        "y": shorts((detail.y[i] for i in rows), y_log),
        "z": [[shown(detail.z[i][j]) for j in columns] for i in rows],
        "colorscale": [[k / (len(SEQUENTIAL) - 1), shade] for k, shade in enumerate(SEQUENTIAL)],
        "colorbar": {
            "title": {"text": f"log₁₀ {label}" if z_log else label, "side": "right"},
            "thickness": 12,
            "outlinewidth": 0,
            "exponentformat": "power",
            "nticks": 6,
        },
        "hovertemplate": "x %{x:.4g}, y %{y:.4g}: %{z:.4g}<extra></extra>",
    }
    if fine:
        trace |= {
            "ncontours": 14,
            "contours": {"coloring": "heatmap"},
            "line": {"width": 0.6, "color": "rgba(255,255,255,0.55)"},
        }
    elif len(rows) * len(columns) <= _CONTOURS_FROM**2 or not detail.rows:
        trace |= {"xgap": 1, "ygap": 1, "texttemplate": "%{z:.3~g}"}
    paths = [trace for path in detail.paths for trace in _path(path, resolution, x_log, y_log)]
    x_axis, y_axis = axis(detail.x_axis, detail.x, log=x_log), axis(detail.y_axis, detail.y, log=y_log)
    if not fine:
        x_axis |= _cells([detail.x[j] for j in columns])
        y_axis |= _cells([detail.y[i] for i in rows])
    if detail.rows:
        names = [detail.rows[i] for i in rows]
        y_axis |= named_ticks(names, [detail.y[i] for i in rows]) | {"autorange": "reversed"}
        trace["text"] = [[for_plot(name, 40)] * len(columns) for name in names]
        trace["hovertemplate"] = "%{text}, x %{x:.4g}: %{z:.4g}<extra></extra>"
    height = max(180, min(640, 90 + 22 * len(rows))) if detail.rows else 380
    layout = frame(x_axis, y_axis) | {"height": height}
    if fine:
        layout |= _relief(x_axis, y_axis, trace["colorbar"]["title"]["text"], len(paths))
    return {"data": [trace, *paths], "layout": layout}


def _relief(x_axis: Figure, y_axis: Figure, height: str, paths: int) -> dict[str, Any]:
    """Buttons that turn the map into a relief, without its paths, and back."""
    kept = ("type", "tickmode", "tickvals", "ticktext", "exponentformat")
    axes = {
        f"{letter}axis": {"title": {"text": own["title"]["text"]}, "gridcolor": GRID_LIGHT, "nticks": 5}
        | {key: own[key] for key in kept if key in own}
        for letter, own in (("x", x_axis), ("y", y_axis), ("z", {"title": {"text": height}}))
    }
    show = lambda label, kind, flat: {
        "label": label,
        "method": "update",
        "args": [
            {"type": [kind, *["scatter"] * paths], "visible": [True, *[flat] * paths], "showscale": flat},
            {"xaxis.visible": flat, "yaxis.visible": flat},
        ],
    }
    return {
        "margin": {"l": 8, "r": 12, "t": 40, "b": 8},
        "scene": axes
        | {"aspectmode": "manual", "aspectratio": {"x": 1.3, "y": 1.3, "z": 0.8}}
        | {"camera": {"eye": {"x": 1.5, "y": -1.5, "z": 1.1}, "center": {"x": 0, "y": 0, "z": -0.2}}},
        "updatemenus": [
            {
                "type": "buttons",
                "direction": "right",
                "x": 0,
                "xanchor": "left",
                "y": 1.02,
                "yanchor": "bottom",
                "pad": {"t": 0, "b": 4, "l": 0, "r": 0},
                "showactive": True,
                "font": {"color": INK_LIGHT, "size": 12},
                "bgcolor": PAPER_LIGHT,
                "bordercolor": GRID_LIGHT,
                "buttons": [show("map", "contour", True), show("relief", "surface", False)],
            }
        ],
    }


def _path(path: Line, resolution: Resolution, x_log: bool, y_log: bool) -> list[dict[str, Any]]:
    """The path with its points, and its end: white with a dark rim, which stands out from every colour of the map."""
    kept = thin(len(path.x), resolution.points)
    x, y = shorts((path.x[i] for i in kept), x_log), shorts((path.y[i] for i in kept), y_log)
    marks = [{"symbol": "circle", "size": 5}, {"symbol": "star", "size": 14}]
    rim = {"color": "white", "line": {"color": "rgba(20,20,20,0.9)", "width": 1}}
    shared: dict[str, Any] = {
        "type": "scatter",
        "name": for_plot(path.name, 40),
        "showlegend": False,
        "hovertemplate": f"{for_plot(path.name, 40)}: x %{{x:.4g}}, y %{{y:.4g}}<extra></extra>",
    }
    return [
        shared | {"mode": "lines+markers", "x": x, "y": y, "line": {"color": "white", "width": 1.5}}
        | {"marker": marks[0] | rim},
        shared | {"mode": "markers", "x": x[-1:], "y": y[-1:], "marker": marks[1] | rim},
    ]  # fmt: skip


def _cells(places: list[float]) -> dict[str, Any]:
    """One tick a row or column of cells, where there are few."""
    return {"tickmode": "array", "tickvals": shorts(places)} if len(places) <= _CONTOURS_FROM else {}


def _logarithm(value: float) -> float | int | None:
    return short(math.log10(value)) if value > 0 and math.isfinite(value) else None
