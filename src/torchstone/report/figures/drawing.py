"""Which details are drawn as plots, and by what; the others are tables, bars and pictures of the page itself."""

from __future__ import annotations

from torchstone.details import Curve, Detail, Histogram, Scatter, Spectrum, Surface
from torchstone.report.figures.curve import curve
from torchstone.report.figures.frame import Figure
from torchstone.report.figures.histogram import histogram
from torchstone.report.figures.scatter import scatter
from torchstone.report.figures.spectrum import spectrum
from torchstone.report.figures.surface import surface
from torchstone.report.resolution import FULL, Resolution


def figure(detail: Detail, resolution: Resolution = FULL) -> Figure | None:
    """The detail as a Plotly figure of plain dicts; None where the page shows it without a plot."""
    match detail:
        case Curve():
            return curve(detail, resolution)
        case Histogram():
            return histogram(detail, resolution)
        case Spectrum():
            return spectrum(detail, resolution)
        case Surface():
            return surface(detail, resolution)
        case Scatter():
            return scatter(detail, resolution)
        case _:
            return None
