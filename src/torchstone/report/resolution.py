"""How much of each detail a report shows, so that one file stays small whatever was measured."""

from __future__ import annotations

from dataclasses import dataclass

from torchstone.details import MAX_POINTS


@dataclass(frozen=True)
class Resolution:
    """Limits on what one detail shows.

    Args:
        points: Points of a line, spectrum, scatter plot or histogram.
        grid: Rows and columns of a surface.
        rows: Rows of a table.
        pictures: Pictures of a row of images.
        pixels: Longer side of a picture.
    """

    points: int = MAX_POINTS
    grid: int = 100
    rows: int = 200
    pictures: int = 48
    pixels: int = 256


FULL = Resolution()
STEPS = (
    FULL,
    Resolution(points=800, grid=60, rows=100, pictures=24, pixels=128),
    Resolution(points=300, grid=40, rows=50, pictures=12, pixels=64),
    Resolution(points=100, grid=24, rows=20, pictures=8, pixels=32),
)
"""From all there is to the least that is still worth looking at."""
