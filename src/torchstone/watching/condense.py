"""Long series made short without losing a spike."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torchstone.details import Line


def condensed(
    name: str,
    steps: Sequence[int],
    values: Sequence[float],
    most: int,
    *,
    log: bool = False,
    band: bool = True,
) -> Line:
    """A line of at most `most` points; of more, means of neighbours with a band from the lowest to the highest.

    Args:
        name: Of the line.
        steps: Where.
        values: What; those that are not finite are left out of means, and drawn as gaps where nothing else is there.
        most: Points at most.
        log: Whether it is drawn on a logarithmic axis: means are then geometric.
        band: Whether to draw the band.

    >>> condensed("loss", [1, 2, 3, 4], [1.0, 3.0, 2.0, 2.0], 2)
    Line(name='loss', x=(1.5, 3.5), y=(2.0, 2.0), low=(1.0, 2.0), high=(3.0, 2.0))
    """
    size = math.ceil(len(steps) / max(1, most))
    if size <= 1:
        return Line(name, tuple(map(float, steps)), tuple(values))
    x, y, low, high = [], [], [], []
    for start in range(0, len(steps), size):
        part = [value for value in values[start : start + size] if math.isfinite(value)]
        part = [value for value in part if value > 0] if log else part
        x.append(math.fsum(steps[start : start + size]) / len(steps[start : start + size]))
        y.append(_mean(part, log))
        low.append(min(part, default=math.nan))
        high.append(max(part, default=math.nan))
    return Line(name, tuple(x), tuple(y), *((tuple(low), tuple(high)) if band else ()))


def _mean(part: Sequence[float], log: bool) -> float:
    if not part:
        return math.nan
    if log:
        return math.exp(math.fsum(map(math.log, part)) / len(part))
    return math.fsum(part) / len(part)
