"""Classification by softmax cross-entropy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchstone.batches import Batch
from torchstone.errors import ObjectiveError, SettingError
from torchstone.objectives.base import Supervised, widened


class Classification(Supervised):
    r"""Cross-entropy of a class label: L(z, y) = log sum_c exp(z_c) - z_y, averaged over counted positions.

    Outputs are scores (N, C) with labels (N,), or (N, C, d1, ...) with labels (N, d1, ...) as for segmentation. A
    single score per example, shape (N,) or (N, 1), is the logit of class 1 of two.

    Args:
        class_names: Names for the report.
        label_smoothing: As in `torch.nn.CrossEntropyLoss`.
        ignore_index: Positions with this label do not count; an example without any other has loss 0.
        call: See `Supervised`.
        target: See `Supervised`.
        output: See `Supervised`.
    """

    task = "classification"
    convex = True
    natural = True

    def __init__(
        self,
        class_names: Sequence[str] = (),
        *,
        label_smoothing: float = 0.0,
        ignore_index: int = -100,
        call: Callable[[nn.Module, Batch], Any] | None = None,
        target: str | int | Callable[[Batch], Tensor] | None = None,
        output: Callable[[Any], Tensor] | None = None,
    ) -> None:
        super().__init__(call=call, target=target, output=output)
        self.class_names = tuple(str(name) for name in class_names)
        if not 0 <= label_smoothing <= 1:
            raise SettingError(
                "Classification.label_smoothing must lie in [0, 1]", repr(label_smoothing), "Pass 0.1."
            )
        self.label_smoothing = label_smoothing
        self.ignore_index = ignore_index

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy of each example, shape (N,)."""
        scores = _all_scores(widened(outputs))
        labels = self._flat_labels(batch, scores)
        losses = F.cross_entropy(
            scores,
            labels,
            reduction="none",
            label_smoothing=self.label_smoothing,
            ignore_index=self.ignore_index,
        )
        if losses.ndim == 1:
            return losses
        counted = (labels != self.ignore_index).flatten(1).sum(1).clamp(min=1)
        return losses.flatten(1).sum(1) / counted

    def labels(self, batch: Batch) -> Tensor | None:
        """Class labels (N,), -100 where there is none, or None for tasks with a label a position."""
        target = self.target(batch)
        target = target[:, 0] if target.ndim == 2 and target.shape[1] == 1 else target
        return target.long().masked_fill(target == self.ignore_index, -100) if target.ndim == 1 else None

    def scores(self, outputs: Tensor) -> Tensor | None:
        """Scores (N, C); a single logit z becomes (0, z)."""
        scores = _all_scores(widened(outputs))
        return scores if scores.ndim == 2 else None

    def _flat_labels(self, batch: Batch, scores: Tensor) -> Tensor:
        labels = self.target(batch)
        if (
            labels.ndim == scores.ndim and labels.shape[1] == 1
        ):  # the channel of (N, 1) or (N, 1, H, W) labels
            labels = labels[:, 0]
        return labels.long()

    def check(self, outputs: Tensor, batch: Batch) -> None:
        """Labels must be whole numbers in range, one per example or position.

        Raises:
            ObjectiveError: Anything else, with what came.
        """
        labels, scores = self.target(batch), _all_scores(outputs)
        if scores.ndim < 2:
            raise ObjectiveError(
                "Classification needs outputs of shape (N, C)",
                f"shape {tuple(outputs.shape)}",
                "Return scores.",
            )
        binary_floats = (
            labels.is_floating_point() and outputs.shape != scores.shape
        )  # BCE convention: 0. and 1.
        if labels.is_floating_point() and not (binary_floats and bool(((labels == 0) | (labels == 1)).all())):
            raise ObjectiveError(
                "Classification needs integer class labels, shape (N,)",
                f"{labels.dtype} of shape {tuple(labels.shape)}",
                "Convert with .long(); for one-hot rows use .argmax(1); for real targets use Regression().",
            )
        flat = self._flat_labels(batch, scores)
        if flat.shape != (scores.shape[0], *scores.shape[2:]):
            raise ObjectiveError(
                f"Labels must have shape {(scores.shape[0], *scores.shape[2:])} to match outputs {tuple(outputs.shape)}",
                f"shape {tuple(labels.shape)}",
                "Return one row of scores per label; for one-hot rows use .argmax(1).",
            )
        counted = flat[flat != self.ignore_index]
        if counted.numel() and (int(counted.min()) < 0 or int(counted.max()) >= scores.shape[1]):
            raise ObjectiveError(
                f"Labels must lie in 0..{scores.shape[1] - 1} for {scores.shape[1]} outputs",
                f"labels from {int(counted.min())} to {int(counted.max())}",
                "Start labels at 0 and give the network one output per class.",
            )


def _all_scores(outputs: Tensor) -> Tensor:
    if outputs.ndim == 1:
        outputs = outputs[:, None]
    if outputs.shape[1] == 1:
        return torch.cat([torch.zeros_like(outputs), outputs], dim=1)
    return outputs
