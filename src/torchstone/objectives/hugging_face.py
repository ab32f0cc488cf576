"""Hugging Face models: dict batches in, an output with `.logits` back."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Literal, Self

import torch.nn.functional as F
from torch import Tensor, nn

from torchstone import batches
from torchstone.batches import Batch
from torchstone.errors import BatchError, ObjectiveError
from torchstone.objectives.base import Objective, describe, widened
from torchstone.objectives.causal_lm import position_losses, shifted_losses

HuggingFaceTask = Literal["auto", "sequence", "regression", "token", "causal", "seq2seq"]
_CONTINUOUS = ("pixel_values", "input_values", "input_features", "inputs_embeds")


class HuggingFace(Objective):
    """The loss a Hugging Face model reports, split per example.

    A batch is a mapping for `model(**batch)` with "labels". The mean over a batch equals the model's own `.loss` where
    every sequence counts the same number of tokens; otherwise the model averages over tokens and this over examples.

    Args:
        task: "sequence" (one label per example), "regression", "token" (one label per position), "causal" (next
            token), "seq2seq" (encoder-decoder), or "auto": decided from the model's class name and configuration.
        class_names: Names for the report; by default the configuration's id2label.
        ignore_index: Label that does not count.
    """

    convex = True
    natural = True

    def __init__(
        self, task: HuggingFaceTask = "auto", class_names: tuple[str, ...] = (), ignore_index: int = -100
    ) -> None:
        self.kind: HuggingFaceTask = task
        self.class_names, self.ignore_index = tuple(class_names), ignore_index

    @property
    def task(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The kind of task, in the report's words."""
        return {
            "sequence": "classification",
            "regression": "regression",
            "token": "token classification",
        }.get(self.kind, "language model")

    def bind(self, model: nn.Module) -> Self:
        """Decide the task from the model where it is "auto"."""
        names = self.class_names
        kind: HuggingFaceTask = _kind_of(model) if self.kind == "auto" else self.kind
        if kind == "sequence" and not names:
            labels = getattr(getattr(model, "config", None), "id2label", None) or {}
            names = tuple(str(labels[key]) for key in sorted(labels))
        bound = copy.copy(self)  # a subclass may take other arguments
        bound.kind, bound.class_names = kind, names
        return bound

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """The model's `.logits`, shape (N, ...)."""
        if not isinstance(batch, Mapping):
            raise BatchError(
                "HuggingFace needs mapping batches for model(**batch)", describe(batch), "Collate dicts."
            )
        returned: Any = model(**batch)
        logits = getattr(returned, "logits", None)
        if not isinstance(logits, Tensor):
            raise ObjectiveError(
                "HuggingFace needs a model that returns .logits",
                type(returned).__name__,
                "Use a model with a head, or Classification/Regression with output=...",
            )
        return logits

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        """One loss per example, shape (N,)."""
        outputs, labels = widened(outputs), self._labels(batch)
        if self.kind == "causal":
            return shifted_losses(outputs, labels, self.ignore_index)
        if self.kind in ("seq2seq", "token"):
            return position_losses(outputs, labels, self.ignore_index)
        if self.kind == "regression":
            return (outputs - labels.reshape(outputs.shape)).square().reshape(len(outputs), -1).mean(1)
        return F.cross_entropy(outputs, labels.long(), reduction="none", ignore_index=self.ignore_index)

    def target(self, batch: Batch) -> Tensor | None:
        """The labels, whatever they are."""
        return self._labels(batch)

    def labels(self, batch: Batch) -> Tensor | None:
        """Class labels (N,) of a sequence classifier, -100 where there is none."""
        if self.kind != "sequence":
            return None
        labels = self._labels(batch).long()
        return labels.masked_fill(labels == self.ignore_index, -100)

    def scores(self, outputs: Tensor) -> Tensor | None:
        """Scores (N, C) of a sequence classifier."""
        return widened(outputs) if self.kind == "sequence" else None

    def inputs(self, batch: Batch) -> Tensor | None:
        """Pixels, audio or embeddings, where the model takes them."""
        return next((batch[key] for key in _CONTINUOUS if isinstance(batch.get(key), Tensor)), None)

    def check(self, outputs: Tensor, batch: Batch) -> None:
        """Labels must match the outputs' shape and range."""
        labels = self._labels(batch)
        expected = {"sequence": outputs.shape[:1], "regression": labels.shape}.get(
            self.kind, outputs.shape[:2]
        )
        if labels.shape != expected or (self.kind == "regression" and labels.numel() != outputs.numel()):
            raise ObjectiveError(
                f"Labels for task {self.kind!r} must match outputs of shape {tuple(outputs.shape)}",
                f"shape {tuple(labels.shape)}",
                "Pass HuggingFace(task=...) if the task was guessed wrongly.",
            )
        if self.kind != "regression":
            self._check_classes(labels, outputs.shape[-1])

    def _check_classes(self, labels: Tensor, classes: int) -> None:
        if labels.is_floating_point():
            raise ObjectiveError(
                f"Labels for task {self.kind!r} must be integers",
                f"{labels.dtype}",
                "Convert with .long(), or pass HuggingFace(task='regression').",
            )
        counted = labels[labels != self.ignore_index]
        if counted.numel() and (int(counted.min()) < 0 or int(counted.max()) >= classes):
            raise ObjectiveError(
                f"Labels must lie in 0..{classes - 1}",
                f"labels from {int(counted.min())} to {int(counted.max())}",
                "Check the labels and the model's num_labels or vocabulary.",
            )

    def _labels(self, batch: Batch) -> Tensor:
        labels = batch.get("labels")
        if not isinstance(labels, Tensor):
            raise BatchError(
                "A Hugging Face batch must hold 'labels'",
                describe(batch),
                "Add them; for language models labels = input_ids with padding set to -100.",
            )
        return labels

    def size(self, batch: Batch) -> int:
        """Number of examples: rows of the labels."""
        labels = batch.get("labels") if isinstance(batch, Mapping) else None
        return labels.shape[0] if isinstance(labels, Tensor) else batches.size(batch)


def _kind_of(model: nn.Module) -> HuggingFaceTask:
    name, config = type(model).__name__, getattr(model, "config", None)
    if getattr(config, "problem_type", None) == "regression" or (
        "Classification" in name and getattr(config, "num_labels", 2) == 1
    ):
        return "regression"
    if "TokenClassification" in name or "MaskedLM" in name:
        return "token"
    if "Classification" in name:
        return "sequence"
    if getattr(config, "is_encoder_decoder", False):
        return "seq2seq"
    if "CausalLM" in name or "LMHead" in name:
        return "causal"
    raise ObjectiveError(
        "HuggingFace(task='auto') knows sequence, token, causal and encoder-decoder heads",
        name,
        "Pass task='sequence', 'regression', 'token', 'causal' or 'seq2seq'.",
    )
