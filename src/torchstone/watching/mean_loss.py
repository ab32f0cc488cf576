"""The mean of the training losses since the last record."""

from __future__ import annotations

from torch import Tensor

from torchstone.watching.telling import in_words


class MeanLoss:
    """Losses added up where they lie, so that nothing waits for a device before the mean is read."""

    def __init__(self) -> None:
        self._sum: Tensor | float = 0.0
        self._count = 0

    def add(self, loss: Tensor | float) -> str | None:
        """Add the loss of a step; what is wrong with it, in words, where it is no loss and left out."""
        try:
            self._sum = self._sum + _number(loss)
        except (TypeError, ValueError, OverflowError, RuntimeError) as error:
            return f"step() takes the loss as a number or a tensor and leaves this one out: {in_words(error)}"
        self._count += 1
        return None

    def value(self) -> float | None:
        """The mean; None where there was no loss."""
        return float(self._sum) / self._count if self._count else None


def _number(loss: Tensor | float) -> Tensor | float:
    return loss.detach().float().mean() if isinstance(loss, Tensor) and not loss.is_complex() else float(loss)
