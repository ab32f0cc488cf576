"""Straight lines through weight space."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from torchstone.errors import SettingError
from torchstone.landscape.point import Point, between


@dataclass(frozen=True)
class Segment:
    """(1 - alpha) start + alpha end: `start` at 0, `end` at 1, both bit for bit.

    Real buffers (the statistics of batch normalisation) are mixed in the same way, but not beyond the ends.
    """

    start: Point
    end: Point

    def at(self, place: float) -> Point:
        """The point with this alpha."""
        if place in (0, 1):
            return self.end if place else self.start
        weights = (1 - place) * self.start.weights + place * self.end.weights
        return Point(weights, between(self.start.buffers, self.end.buffers, place))


@dataclass(frozen=True)
class Ray:
    """origin + a direction."""

    origin: Point
    direction: Tensor

    def at(self, place: float) -> Point:
        """The point at this distance, in lengths of the direction."""
        return Point(self.origin.weights + place * self.direction, self.origin.buffers)


def inclusive(low: float, high: float, count: int, also: tuple[float, ...] = ()) -> list[float]:
    """`count` evenly spaced numbers from low to high, with each number of `also` in place of its nearest neighbour.

    >>> inclusive(-0.5, 1.5, 5, also=(0.0, 1.0))
    [-0.5, 0.0, 0.5, 1.0, 1.5]

    Raises:
        SettingError: Fewer than two numbers, or more of `also` than there is room for.
    """
    if count < 2 + len(also):
        raise SettingError(
            "A line needs more points than are fixed", f"{count} points", "Raise the number of points."
        )
    # Rounded to what double precision resolves, so that 0.1 is 0.1 and not 0.10000000000000009.
    decimals = 14 - math.ceil(math.log10(max(abs(low), abs(high), 1e-250)))
    numbers = [round(low + (high - low) * i / (count - 1), decimals) for i in range(count)]
    free = list(range(count))
    for wanted in also:
        nearest = min(free, key=lambda index: abs(numbers[index] - wanted))
        numbers[nearest] = wanted
        free.remove(nearest)
    return sorted(numbers)
