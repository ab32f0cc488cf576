"""Regression by mean squared error."""

from __future__ import annotations

from torch import Tensor

from torchstone.batches import Batch
from torchstone.errors import ObjectiveError
from torchstone.objectives.base import Supervised, widened


class Regression(Supervised):
    """Squared error of each example, averaged over its output coordinates, as `torch.nn.MSELoss` scales it.

    Outputs (N, ...) and targets must hold the same numbers per example; (N, 1) against (N,) is understood and never
    broadcast to (N, N).
    """

    task = "regression"
    convex = True
    natural = True

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Mean squared error of each example, shape (N,)."""
        outputs = widened(outputs)
        target = self._matched(outputs, batch).to(outputs.dtype)
        return (outputs - target).square().reshape(outputs.shape[0], -1).mean(1)

    def _matched(self, outputs: Tensor, batch: Batch) -> Tensor:
        target = self.target(batch)
        if target.shape == outputs.shape:
            return target
        # Only dimensions of size 1 may come or go: (N, 2, 3) against (N, 3, 2) is a mistake, not a reshape.
        if target.shape[:1] == outputs.shape[:1] and _sizes(target) == _sizes(outputs):
            return target.reshape(outputs.shape)
        raise ObjectiveError(
            f"Targets must have the outputs' shape {tuple(outputs.shape)}",
            f"shape {tuple(target.shape)}",
            "Give the network one output per target coordinate.",
        )

    def check(self, outputs: Tensor, batch: Batch) -> None:
        """Targets must match the outputs' shape."""
        self._matched(outputs, batch)


def _sizes(tensor: Tensor) -> list[int]:
    return [size for size in tensor.shape[1:] if size != 1]
