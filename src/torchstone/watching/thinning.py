"""Which records keep what is known by layer, so that neither memory nor logs grow by it for ever."""

from __future__ import annotations

WHOLE = 1000


class Thinning:
    """All of the first records, then ever fewer: `WHOLE` of each doubling of the run.

    Numbers of all layers are most of a record: of 100 layers, a step's are 20 kB on disk. No plot shows more than some hundred
    of them along a run, and alerts look at them before they go.

    >>> thinning = Thinning()
    >>> sum(thinning.keeps_layers() for _ in range(8000))
    4000
    """

    def __init__(self) -> None:
        self._seen, self._gap = 0, 1

    def keeps_layers(self) -> bool:
        """Whether the next record does."""
        keeps = self._seen % self._gap == 0
        self._seen += 1
        if self._seen == 2 * WHOLE * self._gap:
            self._gap *= 2
        return keeps
