"""Where the bars of named numbers lie, in per cent of the width they have; drawn alike on the page and in a terminal."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torchstone.details import Scalar, Scalars
from torchstone.reading import Reading


@dataclass(frozen=True)
class Segment:
    """One part of a stacked bar.

    Args:
        item: The part.
        index: Its place among all parts; it chooses the colour.
        left: Where it starts, in per cent.
        width: How wide it is, in per cent.
        share: Its share of the whole, or NaN where the parts have no finite positive sum.
    """

    item: Scalar
    index: int
    left: float
    width: float
    share: float


@dataclass(frozen=True)
class Whisker:
    """A number and its interval on a scale that a group of numbers shares.

    Args:
        dot: Place of the number in per cent; NaN where it is not finite.
        left: Start of the interval.
        width: Width of the interval; 0 where there is none.
        zero: Place of zero.
    """

    dot: float
    left: float
    width: float
    zero: float


def stack(items: tuple[Scalar, ...]) -> tuple[Segment, ...]:
    """The parts side by side: negative ones left of zero, positive ones right of it; only finite, non-zero parts.

    A part whose estimate is negative takes nothing off the bar; it is shown for what it is.
    """
    parts = [(i, item) for i, item in enumerate(items) if math.isfinite(item.value) and item.value]
    largest = max((abs(item.value) for _, item in parts), default=0.0)
    if not largest:
        return ()
    scaled = [(i, item, item.value / largest) for i, item in parts]  # sums of huge parts stay finite
    extent = sum(abs(value) for _, _, value in scaled)
    whole = sum(value for _, _, value in scaled)
    below = sum(-value for _, _, value in scaled if value < 0)
    left, right, segments = below, below, []
    for i, item, value in scaled:
        if value < 0:
            left += value
        start = left if value < 0 else right
        right += max(value, 0.0)
        share = value / whole if whole > 1e-9 else math.nan
        segments.append(Segment(item, i, 100 * start / extent, 100 * abs(value) / extent, share))
    return tuple(segments)


def whiskers(items: tuple[Scalar, ...]) -> tuple[Whisker, ...] | None:
    """One a number, on one scale that contains zero; None where units differ or there is nothing to draw."""
    if len({item.unit for item in items}) != 1:
        return None
    ends = [
        e for item in items for e in (item.value, item.low, item.high) if e is not None and math.isfinite(e)
    ]
    low, high = min(ends, default=0.0), max(ends, default=0.0)
    low, high = min(low, 0.0), max(high, 0.0)
    extent = high / 2 - low / 2  # halves: the difference of huge numbers of either sign stays finite
    if not extent > 0:
        return None
    place = lambda value: 100 * min(max((value / 2 - low / 2) / extent, 0.0), 1.0)
    return tuple(_whisker(item, place, low) for item in items)


def _whisker(item: Scalar, place, low: float) -> Whisker:  # pyright: ignore[reportMissingParameterType]
    dot = place(item.value) if math.isfinite(item.value) else math.nan
    if item.low is None or item.high is None or math.isnan(item.low) or math.isnan(item.high):
        return Whisker(dot, 0.0, 0.0, place(0.0))
    left, right = place(max(item.low, low)), place(item.high)
    return Whisker(dot, left, max(right - left, 0.0), place(0.0))


def budget_of(reading: Reading | None) -> Scalars | None:
    """The stacked numbers of a reading: the error budget's parts."""
    if reading is None:
        return None
    found = (d for d in reading.details if isinstance(d, Scalars) and d.stacked and d.items)
    return next(found, None)
