"""What all plots share: axes, fonts, legend, reference lines and compact numbers.

Figures are plain dicts in Plotly's format, in the colours of the light page; the page swaps them for the dark ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from textwrap import wrap
from typing import Any

from torchstone.details import Axis, Marker
from torchstone.report.escaping import both_ends, for_plot, shorten
from torchstone.report.palette import GRID_LIGHT, INK_LIGHT, MUTED_LIGHT, PAPER_LIGHT, SERIES_LIGHT
from torchstone.report.words import power_of_ten

Figure = dict[str, Any]

DASHES = ("solid", "dash", "dot")
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "x")
_MARKER_DASHES = ("dash", "dot", "dashdot", "longdash")
_FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'
MOST_TICKS = 24
_MOST_LOG_TICKS = 9
_TITLE_WIDTH = 36  # characters of an axis title that a phone has room for


def short(value: float) -> float | int | None:
    """Six significant digits, or None for what a plot cannot show.

    >>> short(0.12345678), short(3.0), short(float("inf"))
    (0.123457, 3, None)
    """
    if not math.isfinite(value):
        return None
    rounded = float(f"{value:.6g}")
    return int(rounded) if rounded == int(rounded) and abs(rounded) < 1e15 else rounded


def shorts(values: Iterable[float], log: bool = False) -> list[float | int | None]:
    """Many of them; on a logarithmic axis, what is not positive cannot be shown either."""
    return [None if log and not value > 0 else short(value) for value in values]


def axis(described: Axis, values: Iterable[float] = (), *, log: bool = False) -> dict[str, Any]:
    """A Plotly axis with its label and unit; `values` are those it will show."""
    settings: dict[str, Any] = {
        "title": {"text": axis_title(described), "standoff": 10},
        "automargin": True,
        "gridcolor": GRID_LIGHT,
        "linecolor": GRID_LIGHT,
        "zeroline": False,
        "ticks": "outside",
        "ticklen": 4,
        "tickcolor": GRID_LIGHT,
        "exponentformat": "power",
        "nticks": 8,
    }
    return settings | ({"type": "log", **_log_ticks(values)} if log else {"type": "linear"})


def _log_ticks(values: Iterable[float]) -> dict[str, Any]:
    """Ticks at 1, 2 and 5 times powers of ten, or at powers only where there are many; Plotly's own where too few."""
    shown = [math.log10(value) for value in values if value > 0 and math.isfinite(value)]
    low, high = min(shown, default=0.0), max(shown, default=0.0)
    decades = range(math.floor(low), math.ceil(high) + 1)
    margin = 0.06 * (high - low)
    within = lambda log: low - margin <= log <= high + margin
    fine = [(k, m) for k in decades for m in (1, 2, 5) if within(k + math.log10(m))]
    step = math.ceil(len(decades) / _MOST_LOG_TICKS)
    coarse = [(k, 1) for k in decades if within(k) and k % step == 0]
    chosen = fine if len(fine) <= _MOST_LOG_TICKS else coarse
    if len(chosen) < 2 or not -300 < low <= high < 300:
        return {}
    return {
        "tickmode": "array",
        "tickvals": [float(f"{m}e{k}") for k, m in chosen],
        "ticktext": [_tick_name(k, m) for k, m in chosen],
    }


def _tick_name(exponent: int, first: int) -> str:
    if -4 < exponent < 5:
        return f"{float(f'{first}e{exponent}'):g}"
    return (f"{first}·" if first > 1 else "") + power_of_ten(exponent)


def axis_title(described: Axis) -> str:
    """The label, with the unit in brackets, on at most two lines."""
    text = f"{described.label} ({described.unit})" if described.unit else described.label
    lines = wrap(shorten(text, 2 * _TITLE_WIDTH), _TITLE_WIDTH, max_lines=2, placeholder="…")
    return "<br>".join(for_plot(line) for line in lines)


def can_be_log(described: Axis, *series: Iterable[float]) -> bool:
    """Whether a logarithmic axis was asked for and has anything to show."""
    return described.log and any(value > 0 and math.isfinite(value) for one in series for value in one)


def named_ticks(names: Sequence[str], positions: Sequence[float]) -> dict[str, Any]:
    """Axis settings that name positions; of very many names, evenly spaced ones are shown."""
    step = math.ceil(len(names) / MOST_TICKS) or 1
    shown = range(0, min(len(names), len(positions)), step)
    return {
        "tickmode": "array",
        "tickvals": [short(positions[i]) for i in shown],
        "ticktext": [for_plot(both_ends(names[i], 18)) for i in shown],
    }


def frame(x: dict[str, Any], y: dict[str, Any], *, legend: bool = False, **more: Any) -> dict[str, Any]:
    """The layout around one pair of axes."""
    return {
        "height": 310,
        "margin": {"l": 8, "r": 12, "t": 12, "b": 8},
        "font": {"family": _FONT, "size": 12.5, "color": MUTED_LIGHT},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hoverlabel": {"bgcolor": PAPER_LIGHT, "bordercolor": GRID_LIGHT, "font": {"color": INK_LIGHT}},
        "hovermode": "closest",
        "showlegend": legend,
        "legend": {
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "y": 1.02,
            "yanchor": "bottom",
            "font": {"color": INK_LIGHT},
            "traceorder": "normal",
        },
        "xaxis": x,
        "yaxis": y,
        **more,
    }


def reference_lines(markers: Sequence[Marker]) -> list[dict[str, Any]]:
    """One dashed line a marker, named in the legend so that labels never collide."""
    shapes = []
    finite = [marker for marker in markers if math.isfinite(marker.value)]
    for i, marker in enumerate(finite):
        across = marker.axis == "x"
        place = short(marker.value)
        shape = {
            "type": "line",
            "layer": "above",
            "xref": "x" if across else "paper",
            "yref": "paper" if across else "y",
            "x0": place if across else 0,
            "x1": place if across else 1,
            "y0": 0 if across else place,
            "y1": 1 if across else place,
            "line": {"color": INK_LIGHT, "width": 1.3, "dash": _MARKER_DASHES[i % len(_MARKER_DASHES)]},
            "showlegend": True,
            "legendrank": 2000,
            "name": for_plot(marker.label, 48),
        }
        shapes.append(shape)
    return shapes


def visible_on(markers: Sequence[Marker], axis_name: str, log: bool) -> list[Marker]:
    """The markers of one axis that it can show."""
    return [m for m in markers if (m.axis == "x") == (axis_name == "x") and (m.value > 0 or not log)]


def shown_markers(markers: Sequence[Marker], x_log: bool, y_log: bool) -> list[Marker]:
    """The markers that a pair of axes can show."""
    return visible_on(markers, "x", x_log) + visible_on(markers, "y", y_log)


def colour(index: int) -> str:
    """The colour of a series."""
    return SERIES_LIGHT[index % len(SERIES_LIGHT)]


def dash(index: int) -> str:
    """The dash of a series: it changes when the colours start again."""
    return DASHES[(index // len(SERIES_LIGHT)) % len(DASHES)]
