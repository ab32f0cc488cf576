"""Where a run stands: the few numbers that judging a long run needs, so that a step of it costs no more than one of a short run."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

from torchstone.watching.record import Record

WINDOW = 20
"""Records whose median is taken for the loss, so that a bad batch is no news."""
_SHORT = 5
_RISE = 0.25  # of the first loss
_SURE = 4.5  # standard deviations of the rank sum: it is asked at every record


@dataclass
class Progress:
    """The loss and the gradient's norm over the records, in medians.

    Attributes:
        first: The first finite losses.
        last: The latest losses.
        gradients: The latest gradient norms.
        lowest: The lowest median of `WINDOW` losses in a row.
        lowest_at: How many losses there were then.
        lowest_short: The same of 5.
        best: The losses with the lowest median.
        largest_gradient: Of all records.
        lr: The latest learning rate.
        largest_lr: Of all records.
        head: Median of the first losses; NaN while there are too few of them and of the latest.
        tail: Median of the latest losses; NaN while there are too few.
        now: Median of the latest 5; infinite while there are too few.
    """

    first: list[float] = field(default_factory=list)
    last: deque[float] = field(default_factory=lambda: deque(maxlen=2 * WINDOW))
    gradients: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    lowest: float = math.inf
    lowest_at: int = 0
    lowest_short: float = math.inf
    best: list[float] = field(default_factory=list)
    largest_gradient: float = 0.0
    lr: float = 0.0
    largest_lr: float = 0.0
    head: float = math.nan
    tail: float = math.nan
    now: float = math.inf
    count: int = 0

    def add(self, record: Record) -> None:
        """Take the next record."""
        values = record.values
        if math.isfinite(lr := values.get("lr", math.nan)):
            self.lr, self.largest_lr = lr, max(self.largest_lr, lr)
        if math.isfinite(gradient := values.get("gradient_norm", math.nan)):
            self.gradients.append(gradient)
            self.largest_gradient = max(self.largest_gradient, gradient)
        if "loss" not in values:
            return
        self.count += 1
        self.last.append(values["loss"])
        if len(self.first) < WINDOW and math.isfinite(values["loss"]):
            self.first.append(values["loss"])
        middle, self.now = self._latest(WINDOW), self._latest(_SHORT)
        if middle < self.lowest:
            self.lowest, self.lowest_at, self.best = middle, self.count, self._window()
        self.lowest_short = min(self.lowest_short, self.now)
        if self.count >= 2 * WINDOW:
            self.head = statistics.median(self.first) if self.first else math.nan
            self.tail = middle if math.isfinite(middle) else math.nan

    @property
    def falling(self) -> bool:
        """Whether the lowest median is new: on a plateau that becomes ever less likely, however noisy it is."""
        return self.count - self.lowest_at < 3 * WINDOW

    @property
    def rising(self) -> bool:
        """Whether the loss is not finite, or a quarter of what it began with above its start and its best."""
        if not self.last or not self.first:
            return bool(self.last)
        if not math.isfinite(self.last[-1]):
            return True
        base = min(self.first[0], self.lowest_short)
        return math.isfinite(self.now) and self.now - base > _RISE * abs(self.first[0])

    @property
    def has_risen(self) -> bool:
        """Whether the loss has risen by half since the beginning, or many times over before there are two windows of it."""
        early = self.first[:_SHORT]
        if self.count >= 2 * _SHORT and min(islice(reversed(self.last), _SHORT)) > 10 * max(early) > 0:
            return True
        head, tail = self.head, self.tail
        if math.isnan(head) or math.isnan(tail):
            return False
        latest = self._window()
        # A run that diverges in its first step has nothing but large losses after the very first.
        return (tail > 1.5 * head > 0 and _above(latest, self.first)) or min(latest) > 100 * self.first[0] > 0

    @property
    def has_fallen_back(self) -> bool:
        """Whether half of what was gained since the beginning is lost again."""
        head, tail = self.head, self.tail
        if math.isnan(head) or math.isnan(tail):
            return False
        lost = tail - self.lowest > (head - self.lowest) / 2
        return lost and _above(self.first, self.best) and _above(self._window(), self.best)

    @property
    def rests(self) -> bool:
        """Whether the loss stays above half of its start while the gradient has fallen to a thousandth of its largest."""
        if self.count < 3 * WINDOW or len(self.gradients) < WINDOW or not self.first:
            return False
        if not min(self.gradients) < 1e-3 * self.largest_gradient:  # nor is their median
            return False
        early, late = _median(list(self.last)[:-WINDOW]), _median(list(self.last)[-WINDOW:])
        small = _median(self.gradients) < 1e-3 * self.largest_gradient
        return small and late > 0.5 * self.first[0] and abs(early - late) < 1e-3 * abs(early)

    def _window(self) -> list[float]:
        return list(islice(reversed(self.last), WINDOW))

    def _latest(self, size: int) -> float:
        """Median of the latest losses; infinite while there are too few or where they are not numbers."""
        if len(self.last) < size:
            return math.inf
        return _median(list(islice(reversed(self.last), size)))


def _median(losses: Sequence[float]) -> float:
    """Losses that are not numbers count as infinite."""
    return statistics.median(math.inf if math.isnan(loss) else loss for loss in losses)


def _above(losses: Sequence[float], others: Sequence[float]) -> bool:
    """Whether losses lie above others, by the rank sum test: whatever their distribution, once in 300,000 by chance."""
    wins = math.fsum((a > b) + 0.5 * (a == b) for a in losses for b in others)
    n, m = len(losses), len(others)
    return wins - n * m / 2 > _SURE * math.sqrt(n * m * (n + m + 1) / 12)
