"""Batches cut to what the memory allows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from torchstone.batches import Batch
from torchstone.specimen import Specimen


class Pieces:
    """Cuts batches; the first two examples that come are weighed.

    Networks with frozen noise are not cut, because their noise belongs to whole batches.

    Args:
        specimen: Knows how to count and slice examples.
        weigh: Memory in bytes that a batch of two takes.
        memory_bytes: For a piece.
    """

    def __init__(self, specimen: Specimen, weigh: Callable[[Batch], int], memory_bytes: int) -> None:
        self.specimen, self.weigh, self.memory_bytes = specimen, weigh, memory_bytes
        self._most: int | None = None

    def of(self, batch: Batch) -> Iterator[tuple[Batch, int]]:
        """The pieces, each with the number of its first example in the batch."""
        objective = self.specimen.objective
        count = objective.size(batch)
        if self._most is None and count > 2 and not self.specimen.freeze_noise:
            each = self.weigh(objective.take(batch, torch.arange(2))) // 2
            self._most = max(1, self.memory_bytes // max(1, each))
        size = min(count, self._most or count)
        for start in range(0, count, size):
            stop = min(count, start + size)
            whole = stop - start == count
            yield (batch if whole else objective.take(batch, torch.arange(start, stop))), start
