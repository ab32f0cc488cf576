"""What a reading shows besides its number: a closed union of plain data that the report knows how to draw.

Everything here is immutable, holds only numbers and text, and survives a round trip through JSON. How a thing is
drawn is the report's business. `caption` says how to read it; the report derives a text alternative from the data.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torchstone.errors import SettingError

if TYPE_CHECKING:
    import torch

MAX_POINTS = 2000  # a report stays small: longer series are thinned by the makers, and refused here
MAX_CELLS = 40_000  # of a surface
MAX_PIXELS = 3 * 256 * 256  # values of one picture

Cell = str | int | float | bool | None


def number(value: Any) -> float:
    """A Python float; every NaN becomes the one object `math.nan`, so that equality survives a round trip."""
    result = float(value)
    return math.nan if math.isnan(result) else result


def numbers(values: torch.Tensor | Iterable[Any]) -> tuple[float, ...]:
    """A tuple of Python floats out of a tensor, array or any iterable of numbers."""
    listed = values.tolist() if hasattr(values, "tolist") else list(values)  # pyright: ignore[reportAttributeAccessIssue]
    return tuple(number(value) for value in listed)


def thin(length: int, most: int = MAX_POINTS) -> list[int]:
    """At most `most` (two or more) indices of a series of `length` points, evenly spaced, first and last included."""
    if most < 2:
        raise SettingError(
            "thin() keeps at least the first and the last point", f"most={most}", "Pass 2 or more."
        )
    if length <= most:
        return list(range(length))
    return [round(i * (length - 1) / (most - 1)) for i in range(most)]


def _check_lengths(what: str, *required: Sequence[Any], optional: Sequence[Sequence[Any]] = ()) -> None:
    lengths = {len(one) for one in required} | {len(one) for one in optional if one}
    if len(lengths) > 1:
        raise SettingError(
            f"{what} needs series of one length", f"lengths {sorted(lengths)}", "Pass one value a point."
        )
    _check_count(what, max(lengths), MAX_POINTS)


def _check_count(what: str, count: int, most: int) -> None:
    if count > most:
        raise SettingError(
            f"{what} holds at most {most:,} points", f"{count:,}", "Thin the series with details.thin()."
        )


@dataclass(frozen=True)
class Axis:
    """The name and unit of an axis, and whether it is logarithmic."""

    label: str
    unit: str = ""
    log: bool = False


@dataclass(frozen=True)
class Marker:
    """A reference line: a threshold, a theoretical value, a limit. `axis` is "x" or "y"."""

    label: str
    value: float
    axis: str = "y"

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", number(self.value))
        if self.axis not in ("x", "y"):
            raise SettingError('Marker.axis must be "x" or "y"', repr(self.axis), "Name the axis it crosses.")


@dataclass(frozen=True)
class Scalar:
    """A named number with an optional interval."""

    name: str
    value: float
    unit: str = ""
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", number(self.value))
        for end in ("low", "high"):
            if getattr(self, end) is not None:
                object.__setattr__(self, end, number(getattr(self, end)))


@dataclass(frozen=True)
class Scalars:
    """Named numbers. `stacked` says that they are parts of one whole, drawn as one bar."""

    title: str
    items: tuple[Scalar, ...]
    stacked: bool = False
    caption: str = ""


@dataclass(frozen=True)
class Line:
    """One line of a curve, with an optional band from `low` to `high`."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for field in ("x", "y", "low", "high"):
            object.__setattr__(self, field, numbers(getattr(self, field)))
        _check_lengths(f"Line {self.name!r}", self.x, self.y, optional=(self.low, self.high))


@dataclass(frozen=True)
class Curve:
    """One or several lines over a common pair of axes.

    `ticks` names the x positions where they are categories: those of the longest line, in order.
    """

    title: str
    x: Axis
    y: Axis
    lines: tuple[Line, ...]
    markers: tuple[Marker, ...] = ()
    ticks: tuple[str, ...] = ()
    caption: str = ""

    def tick_names(self) -> dict[float, str]:
        """The name of each named x position."""
        longest = max((line.x for line in self.lines), key=len, default=())
        positions = longest if len(longest) >= len(self.ticks) else numbers(range(len(self.ticks)))
        return dict(zip(positions, self.ticks, strict=False))


@dataclass(frozen=True)
class Bars:
    """The counts of one group in a histogram."""

    name: str
    counts: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "counts", numbers(self.counts))


@dataclass(frozen=True)
class Histogram:
    """Counts between `edges` (one more than there are counts), for one or several groups; `y` names what is counted."""

    title: str
    x: Axis
    edges: tuple[float, ...]
    groups: tuple[Bars, ...]
    markers: tuple[Marker, ...] = ()
    caption: str = ""
    y: Axis = Axis("count")

    def __post_init__(self) -> None:
        object.__setattr__(self, "edges", numbers(self.edges))
        for group in self.groups:
            if len(group.counts) != len(self.edges) - 1:
                raise SettingError(
                    "Histogram needs one more edge than counts",
                    f"{len(self.edges)} edges and {len(group.counts)} counts in {group.name!r}",
                    "Pass the edges that numpy.histogram returns.",
                )
        _check_count(f"Histogram {self.title!r}", len(self.edges), MAX_POINTS)


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues or singular values with their residuals, largest first."""

    title: str
    values: tuple[float, ...]
    residuals: tuple[float, ...] = ()
    unit: str = ""
    log: bool = False
    markers: tuple[Marker, ...] = ()
    caption: str = ""

    def __post_init__(self) -> None:
        for field in ("values", "residuals"):
            object.__setattr__(self, field, numbers(getattr(self, field)))
        _check_lengths(f"Spectrum {self.title!r}", self.values, optional=(self.residuals,))


@dataclass(frozen=True)
class Table:
    """Rows of text and numbers under named columns (units in the names)."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""

    def __post_init__(self) -> None:
        rows = tuple(tuple(_cell(cell, self.title) for cell in row) for row in self.rows)
        object.__setattr__(self, "rows", rows)
        _check_count(f"Table {self.title!r}", len(rows), MAX_POINTS)
        for row in self.rows:
            if len(row) != len(self.columns):
                raise SettingError(
                    f"Table {self.title!r} has {len(self.columns)} columns",
                    f"a row of {len(row)} cells",
                    "Pass one cell a column.",
                )


def _cell(value: Any, title: str) -> Cell:
    """A cell as JSON can hold it; scalars of NumPy and torch become Python's."""
    plain = value.item() if hasattr(value, "item") else value
    if plain is not None and not isinstance(plain, str | int | float):
        raise SettingError(
            f"The cells of table {title!r} must be text, numbers, booleans or None",
            type(plain).__name__,
            "Convert it.",
        )
    return number(plain) if isinstance(plain, float) else plain


@dataclass(frozen=True)
class Surface:
    """A function on a grid: `z[i][j]` belongs to `y[i]` and `x[j]`. `paths` are drawn over it, from a dot to a star.

    `rows` names the rows where they are categories, such as layers: they are drawn from the top, as cells.
    """

    title: str
    x_axis: Axis
    y_axis: Axis
    z_axis: Axis
    x: tuple[float, ...]
    y: tuple[float, ...]
    z: tuple[tuple[float, ...], ...]
    caption: str = ""
    paths: tuple[Line, ...] = ()
    rows: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "x", numbers(self.x))
        object.__setattr__(self, "y", numbers(self.y))
        object.__setattr__(self, "z", tuple(numbers(row) for row in self.z))
        if len(self.z) != len(self.y) or any(len(row) != len(self.x) for row in self.z):
            raise SettingError(
                f"Surface {self.title!r} needs z of {len(self.y)} rows of {len(self.x)} values",
                f"{len(self.z)} rows of {sorted({len(row) for row in self.z})}",
                "Transpose or fill z.",
            )
        if self.rows and len(self.rows) != len(self.y):
            raise SettingError(
                f"Surface {self.title!r} has {len(self.y)} rows",
                f"{len(self.rows)} names",
                "Pass one name a row.",
            )
        _check_count(f"Surface {self.title!r}", len(self.x) * len(self.y), MAX_CELLS)


@dataclass(frozen=True)
class Scatter:
    """Points, optionally in named groups and with a text each (shown on hover)."""

    title: str
    x_axis: Axis
    y_axis: Axis
    x: tuple[float, ...]
    y: tuple[float, ...]
    groups: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    markers: tuple[Marker, ...] = ()
    caption: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "x", numbers(self.x))
        object.__setattr__(self, "y", numbers(self.y))
        _check_lengths(f"Scatter {self.title!r}", self.x, self.y, optional=(self.groups, self.texts))


@dataclass(frozen=True)
class Picture:
    """One image: `pixels` in [0, 1], `height` x `width` x (1 or 3) in row-major order."""

    caption: str
    height: int
    width: int
    pixels: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "pixels", tuple(round(value, 3) for value in numbers(self.pixels)))
        if len(self.pixels) not in (self.height * self.width, 3 * self.height * self.width):
            raise SettingError(
                f"Picture of {self.height} x {self.width} needs 1 or 3 values a pixel",
                f"{len(self.pixels)} values",
                "Pass the flattened image.",
            )
        _check_count("Picture", len(self.pixels), MAX_PIXELS)


@dataclass(frozen=True)
class Images:
    """A row of small images, such as the most suspicious training examples."""

    title: str
    pictures: tuple[Picture, ...]
    caption: str = ""


Detail = Scalars | Curve | Histogram | Spectrum | Table | Surface | Scatter | Images
