"""Forgetting events: examples that were classified rightly and are no longer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from torchstone.errors import NotApplicableError
from torchstone.reading import Need
from torchstone.watching.quantities.base import Quantity
from torchstone.watching.record import Series
from torchstone.watching.state import Measured, State


class Forgetting(Quantity):
    """A ledger of the probe's training examples: learned, forgotten, never learned.

    Counted between measurements, so that fewer measurements see fewer events; compare examples, not runs.

    Attributes:
        ledger: Events a probe example, once something was measured: how often it was forgotten; -1 never learned.

    Source: Toneva et al. 2019, ICLR, section 3.
    """

    name = "forgetting"
    series: ClassVar[Mapping[str, Series]] = {
        "probe_accuracy": Series("Accuracy on the probe", "share", "training examples of the probe"),
        "forgotten": Series("Forgetting events so far", "events", "Toneva et al. 2019"),
        "never_forgotten": Series("Learned and never forgotten", "share of the probe", "Toneva et al. 2019"),
    }
    cost = 1.5
    of_probe = True

    def __init__(self) -> None:
        self._before: Tensor | None = None
        self._events: Tensor | None = None
        self._learned: Tensor | None = None

    @property
    def ledger(self) -> Tensor | None:
        """Times each probe example was forgotten; -1 where it was never right."""
        if self._events is None or self._learned is None:
            return None
        return torch.where(self._learned, self._events, -1)

    def measure(self, state: State) -> Measured:
        """One forward pass over the probe."""
        assert state.bench is not None
        bench = state.bench
        if bench.lacks(Need.LABELS) or bench.lacks(Need.SCORES):
            raise NotApplicableError("needs class labels")

        def right(batch: object) -> Tensor:
            objective = bench.specimen.objective
            outputs = bench.specimen.forward(batch)
            scores, labels = objective.scores(outputs), objective.labels(batch)
            assert scores is not None
            assert labels is not None
            return scores.argmax(1) == labels

        with torch.no_grad():
            now = bench.specimen.map_over(right)
        if self._before is None or len(self._before) != len(now):
            self._events, self._learned = torch.zeros(len(now), dtype=torch.long), torch.zeros_like(now)
            self._before = now
        assert self._events is not None
        assert self._learned is not None
        self._events += (self._before & ~now).long()
        self._learned |= now
        self._before = now
        return Measured(self._values(now))

    def _values(self, now: Tensor) -> dict[str, float]:
        assert self._events is not None
        assert self._learned is not None
        kept = self._learned & (self._events == 0)
        return {
            "probe_accuracy": float(now.double().mean()),
            "forgotten": float(self._events.sum()),
            "never_forgotten": float(kept.double().mean()),
        }

    def summary(self) -> Mapping[str, object]:
        """Events by example, for the log's last line."""
        return {} if self.ledger is None else {"forgetting": self.ledger.tolist()}
