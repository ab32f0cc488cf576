"""What a plot shows, in sentences made from its data: for readers who do not see it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from torchstone.details import (
    Axis,
    Curve,
    Detail,
    Histogram,
    Images,
    Line,
    Marker,
    Scalar,
    Scalars,
    Scatter,
    Spectrum,
    Surface,
    Table,
)
from torchstone.report.escaping import one_line, shorten
from torchstone.report.words import counted, in_unit, listed, plain, unit_of, with_unit

_MOST_PARTS = 6  # lines, groups or markers that are told one by one


def alternative(detail: Detail) -> str:
    """A text alternative: kind, extent, and the few numbers a reader would take from the picture."""
    match detail:
        case Scalars():
            said = _scalars(detail)
        case Curve():
            said = _curve(detail)
        case Histogram():
            said = _histogram(detail)
        case Spectrum():
            said = _spectrum(detail)
        case Table():
            said = (
                f"Table of {counted(len(detail.rows), 'row')} and {counted(len(detail.columns), 'column')}."
            )
        case Surface():
            said = _surface(detail)
        case Scatter():
            said = _scatter(detail)
        case Images():
            said = _images(detail)
    return one_line(said)


def _scalars(detail: Scalars) -> str:
    if not detail.items:
        return "No numbers."
    parts = [f"{_name(item.name)} {scalar(item)}" for item in detail.items]
    kind = "Parts of one whole" if detail.stacked else "Numbers"
    return f"{kind}: {'; '.join(parts)}."


def scalar(item: Scalar) -> str:
    """One named number with its interval and unit."""
    return with_unit(in_unit(item.unit, item.value, item.low, item.high), unit_of(item.unit))


def _curve(detail: Curve) -> str:
    start = (
        f"Line chart of {_axis(detail.y)} against {_axis(detail.x)}, {counted(len(detail.lines), 'line')}."
    )
    lines = [_line(line, detail.tick_names()) for line in detail.lines[:_MOST_PARTS]]
    return " ".join([start, *lines, *_more(len(detail.lines), "line"), *_markers(detail.markers)])


def _line(line: Line, ticks: Mapping[float, str]) -> str:
    points = [(x, y) for x, y in zip(line.x, line.y, strict=False) if math.isfinite(y)]
    missing = _missing(line.y)
    if not points:
        return f"{_name(line.name)}: no finite value.{missing}"
    place = lambda x: _place(x, ticks)
    if len(points) == 1:
        return f"{_name(line.name)}: {plain(points[0][1])} at {place(points[0][0])}.{missing}"
    lowest, highest = min(points, key=lambda p: p[1]), max(points, key=lambda p: p[1])
    first, last = points[0], points[-1]
    return (
        f"{_name(line.name)}: from {plain(first[1])} at {place(first[0])} to {plain(last[1])} at {place(last[0])}; "
        f"lowest {plain(lowest[1])} at {place(lowest[0])}, highest {plain(highest[1])} at {place(highest[0])}.{missing}"
    )


def _place(x: float, ticks: Mapping[float, str]) -> str:
    return _name(ticks[x]) if x in ticks else plain(x)


def _histogram(detail: Histogram) -> str:
    bins = len(detail.edges) - 1
    if bins < 1 or not detail.groups:
        return f"Histogram of {_axis(detail.x)} without data."
    start = (
        f"Histogram of {_axis(detail.x)} in {counted(bins, 'bin')} from {plain(detail.edges[0])} "
        f"to {plain(detail.edges[-1])}."
    )
    groups = []
    for group in detail.groups[:_MOST_PARTS]:
        finite = [count if math.isfinite(count) else 0.0 for count in group.counts]
        total = sum(finite)
        if not total:
            groups.append(f"{_name(group.name)}: empty.")
            continue
        peak = max(range(bins), key=finite.__getitem__)
        groups.append(
            f"{_name(group.name)}: total {plain(total)}, most ({plain(finite[peak])}) between "
            f"{plain(detail.edges[peak])} and {plain(detail.edges[peak + 1])}, median in the bin from "
            f"{plain(detail.edges[_median_bin(finite)])}."
        )
    return " ".join([start, *groups, *_more(len(detail.groups), "group"), *_markers(detail.markers)])


def _median_bin(counts: Sequence[float]) -> int:
    half, passed = sum(counts) / 2, 0.0
    for i, count in enumerate(counts):
        passed += count
        if passed >= half:
            return i
    return len(counts) - 1


def _spectrum(detail: Spectrum) -> str:
    finite = [value for value in detail.values if math.isfinite(value)]
    if not finite:
        return f"Spectrum without finite values.{_missing(detail.values)}"
    unit = f" in {detail.unit}" if detail.unit else ""
    negative = sum(value < 0 for value in finite)
    said = (
        f"Spectrum of {counted(len(detail.values), 'value')}{unit}: largest {plain(max(finite))}, "
        f"smallest {plain(min(finite))}, {plain(negative) if negative else 'none'} negative."
    )
    residuals = [abs(r) for r in detail.residuals if math.isfinite(r)]
    largest = f" Largest residual {plain(max(residuals))}." if residuals else ""
    return " ".join([said + largest + _missing(detail.values), *_markers(detail.markers)])


def _surface(detail: Surface) -> str:
    places = [
        (z, detail.x[j], detail.rows[i] if detail.rows else plain(detail.y[i]))
        for i, row in enumerate(detail.z)
        for j, z in enumerate(row)
        if math.isfinite(z)
    ]
    start = (
        f"Map of {_axis(detail.z_axis)} over {_axis(detail.x_axis)} and {_axis(detail.y_axis)}, "
        f"{len(detail.x)} by {len(detail.y)} points."
    )
    if not places:
        return f"{start} No finite value."
    low, high = min(places), max(places)
    at = lambda p: f"{plain(p[0])} at ({plain(p[1])}, {_name(p[2])})"
    missing = _missing(value for row in detail.z for value in row)
    over = [
        f" Path {_name(path.name)} from ({plain(path.x[0])}, {plain(path.y[0])}) to "
        f"({plain(path.x[-1])}, {plain(path.y[-1])})."
        for path in detail.paths[:_MOST_PARTS]
        if path.x
    ]
    return f"{start} Lowest {at(low)}, highest {at(high)}.{missing}{''.join(over)}"


def _scatter(detail: Scatter) -> str:
    pairs = [
        (x, y) for x, y in zip(detail.x, detail.y, strict=False) if math.isfinite(x) and math.isfinite(y)
    ]
    amount = counted(len(detail.x), "point")
    start = f"Scatter plot of {_axis(detail.y_axis)} against {_axis(detail.x_axis)}, {amount}."
    if not pairs:
        return f"{start} No finite point."
    xs, ys = zip(*pairs, strict=True)
    said = [
        start,
        f"x from {plain(min(xs))} to {plain(max(xs))}, y from {plain(min(ys))} to {plain(max(ys))}.",
    ]
    related = _correlation(xs, ys)
    if related is not None:
        said.append(f"Linear correlation {plain(related, 2)}.")
    names = list(dict.fromkeys(detail.groups))
    if names:
        sizes = [f"{_name(name)} {plain(detail.groups.count(name))}" for name in names[:_MOST_PARTS]]
        said.append(f"Groups: {listed(sizes)}.")
        said += _more(len(names), "group")
    return " ".join([*said, *_markers(detail.markers)])


def _correlation(xs: Sequence[float], ys: Sequence[float]) -> float | None:
    if len(xs) < 3:
        return None
    # Scaling by the largest magnitude keeps squares inside the range of floats.
    x_scale, y_scale = max(map(abs, xs)) or 1.0, max(map(abs, ys)) or 1.0
    x_mean, y_mean = sum(x / x_scale for x in xs) / len(xs), sum(y / y_scale for y in ys) / len(ys)
    dx, dy = [x / x_scale - x_mean for x in xs], [y / y_scale - y_mean for y in ys]
    spread = math.sqrt(sum(d * d for d in dx)) * math.sqrt(sum(d * d for d in dy))
    return sum(a * b for a, b in zip(dx, dy, strict=True)) / spread if spread > 1e-12 else None


def _images(detail: Images) -> str:
    if not detail.pictures:
        return "No images."
    captions = [shorten(picture.caption, 60) or "untitled" for picture in detail.pictures]
    rest = len(captions) - 2 * _MOST_PARTS
    shown = captions[: 2 * _MOST_PARTS]
    more = f"; and {rest} more" if rest > 0 else ""
    return f"{counted(len(captions), 'image')}: {'; '.join(shown)}{more}."


def _markers(markers: Sequence[Marker]) -> list[str]:
    if not markers:
        return []
    parts = [f"{_name(m.label)} at {m.axis} = {plain(m.value)}" for m in markers[:_MOST_PARTS]]
    return [f"Reference lines: {'; '.join(parts)}."]


def _more(amount: int, what: str) -> list[str]:
    return [f"{counted(amount - _MOST_PARTS, f'further {what}')}."] if amount > _MOST_PARTS else []


def _missing(values: Iterable[float]) -> str:
    bad = sum(not math.isfinite(value) for value in values)
    return f" {counted(bad, 'value is', 'values are')} not finite and not drawn." if bad else ""


def _axis(described: Axis) -> str:
    scale = ", logarithmic" if described.log else ""
    unit = f" in {described.unit}" if described.unit else ""
    return f"{_name(described.label)}{unit}{scale}" if described.label else "values"


def _name(name: str) -> str:
    return shorten(name, 60) or "unnamed"
