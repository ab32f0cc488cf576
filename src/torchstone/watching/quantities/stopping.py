"""Is it time to stop? The held-out loss against its best."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from torchstone.errors import NotApplicableError
from torchstone.watching.quantities.base import Quantity
from torchstone.watching.record import Alert, Series
from torchstone.watching.state import Measured, State

LIMIT = 5.0


class EarlyStopping(Quantity):
    """Generalisation loss GL = 100 (held-out loss / its lowest so far - 1), in per cent.

    Source: Prechelt 1998, "Early Stopping - But When?", section 2 (GL_alpha, alpha = 5 among the values tried).
    """

    name = "stopping"
    series: ClassVar[Mapping[str, Series]] = {
        "test_loss": Series("Held-out loss", "loss", "the probe's test examples"),
        "generalisation_loss": Series("Rise of the held-out loss over its best", "%", "Prechelt 1998, GL"),
    }
    cost = 1.5
    of_probe = True

    def __init__(self) -> None:
        self.best, self.best_step = math.inf, 0

    def measure(self, state: State) -> Measured:
        """One forward pass over the held-out part of the probe."""
        assert state.bench is not None
        if not state.bench.specimen.has("test"):
            raise NotApplicableError("needs held-out data in the probe")
        loss = state.bench.specimen.risk("test")
        if loss < self.best:
            self.best, self.best_step = loss, state.step
        rise = 100 * (loss / self.best - 1) if self.best > 0 else 0.0
        alerts = []
        if rise > LIMIT:
            message = f"The held-out loss is {rise:.0f}% above its best at step {self.best_step:,}."
            remedy = f"Stop and take the weights of step {self.best_step:,}, or regularise."
            alerts = [Alert(state.step, "overfitting", "attention", "", message, remedy)]
        return Measured({"test_loss": loss, "generalisation_loss": rise}, alerts=alerts)
