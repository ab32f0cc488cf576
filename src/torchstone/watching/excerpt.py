"""The few records that judging a long run needs, so that a step of a long run costs no more than one of a short run."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from torchstone.watching.record import Record

LENGTH = 60


@dataclass
class Excerpt:
    """The first and the last records that hold certain values, and the one between them where the last of these is largest.

    Medians of up to `LENGTH` records at either end, the first value and the largest are those of all records.

    Args:
        names: Records without all of these values are left out.
    """

    names: tuple[str, ...]
    first: list[Record] = field(default_factory=list)
    last: deque[Record] = field(default_factory=lambda: deque(maxlen=LENGTH))
    largest: Record | None = None

    def add(self, record: Record) -> None:
        """Take the next record."""
        if any(name not in record.values for name in self.names):
            return
        if len(self.first) < LENGTH:
            self.first.append(record)
            return
        if len(self.last) == LENGTH:
            self._keep(self.last[0])
        self.last.append(record)

    @property
    def records(self) -> list[Record]:
        """All that is kept; the largest one stands behind the very first, so that neither end is disturbed."""
        middle = [self.largest] if self.largest is not None else []
        return [*self.first[:1], *middle, *self.first[1:], *self.last]

    def _keep(self, record: Record) -> None:
        value = record.values[self.names[-1]]
        if self.largest is None or not value <= self.largest.values[self.names[-1]]:
            self.largest = self.largest if math.isnan(value) else record
