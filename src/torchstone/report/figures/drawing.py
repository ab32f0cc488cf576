"""Which details are drawn as plots, and by what; the others are tables, bars and pictures of the page itself."""

from __future__ import annotations

from typing import Any

from torchstone.details import Curve, Detail, Histogram, Scatter, Spectrum, Surface
from torchstone.report.figures.curve import curve
from torchstone.report.figures.frame import Figure
from torchstone.report.figures.histogram import histogram
from torchstone.report.figures.scatter import scatter
from torchstone.report.figures.spectrum import spectrum
from torchstone.report.figures.surface import surface
from torchstone.report.resolution import FULL, Resolution


def figure(detail: Detail, resolution: Resolution = FULL) -> Figure | None:
    """The detail as a Plotly figure of plain dicts; None where there is nothing to plot or another way to show it."""
    match detail:
        case Curve():
            drawn = curve(detail, resolution)
        case Histogram():
            drawn = histogram(detail, resolution)
        case Spectrum():
            drawn = spectrum(detail, resolution)
        case Surface():
            drawn = surface(detail, resolution)
        case Scatter():
            drawn = scatter(detail, resolution)
        case _:
            return None
    return drawn if any(_shows(trace) for trace in drawn["data"]) else None


def _shows(trace: dict[str, Any]) -> bool:
    """Whether a trace has any point that can be seen."""
    if "z" in trace:
        return any(value is not None for row in trace["z"] for value in row)
    return any(x is not None and y is not None for x, y in zip(trace["x"], trace["y"], strict=True))
