"""Is it time to stop? The held-out loss against its best."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from torchstone.errors import NotApplicableError
from torchstone.watching.quantities.base import Quantity
from torchstone.watching.record import Alert, Series
from torchstone.watching.state import Measured, State

LIMIT = 5.0
SURE = 3.0


class EarlyStopping(Quantity):
    """Generalisation loss GL = 100 (held-out loss / its lowest so far - 1), in per cent.

    An alert needs the rise to be real, in three measurements in a row each time by more than three standard errors of the
    examples' own rises, and overfitting: the loss of the probe's training examples has not risen.

    Source: Prechelt 1998, "Early Stopping - But When?", section 2 (GL_alpha, alpha = 5 among the values tried).
    """

    name = "stopping"
    series: ClassVar[Mapping[str, Series]] = {
        "test_loss": Series("Held-out loss", "loss", "the probe's test examples"),
        "generalisation_loss": Series("Rise of the held-out loss over its best", "%", "Prechelt 1998, GL"),
    }
    cost = 3.0
    kinds = ("overfitting",)
    of_probe = True

    def __init__(self) -> None:
        self.best, self.best_step = math.inf, 0
        self._losses: Tensor | None = None
        self._training = math.inf

    def measure(self, state: State) -> Measured:
        """One forward pass over the probe."""
        assert state.bench is not None
        if not state.bench.specimen.has("test"):
            raise NotApplicableError("needs held-out data in the probe")
        losses = state.bench.specimen.example_losses("test")
        loss, training = float(losses.mean()), state.bench.specimen.risk()
        if loss < self.best or self._losses is None or len(self._losses) != len(losses):
            self.best, self.best_step, self._losses, self._training = loss, state.step, losses, training
        if not self.best > 0:  # a density's, of which no share can be taken
            return Measured({"test_loss": loss})
        rise = 100 * (loss / self.best - 1)
        alerts = []
        if rise > LIMIT and training <= self._training and is_real(losses - self._losses):
            message = (
                f"The held-out loss is {rise:.0f}% above its best at step {self.best_step:,}, while the training loss "
                f"went from {self._training:.3g} to {training:.3g} on the probe."
            )
            remedy = f"Stop and take the weights of step {self.best_step:,}, or regularise."
            alerts = [Alert(state.step, "overfitting", "attention", "", message, remedy)]
        return Measured({"test_loss": loss, "generalisation_loss": rise}, alerts=alerts)


def is_real(rises: Tensor) -> bool:
    """Whether a mean over at least two examples lies three standard errors above zero."""
    return len(rises) > 1 and float(rises.mean()) > SURE * float(rises.std()) / math.sqrt(len(rises))
