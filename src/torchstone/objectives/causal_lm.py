"""Next-token prediction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from torchstone.batches import Batch
from torchstone.errors import BatchError, ObjectiveError
from torchstone.objectives.base import Objective, describe, pick_output, widened


class CausalLM(Objective):
    r"""Mean negative log-likelihood of a sequence's next tokens: -1/|T| sum_t log p(x_{t+1} | x_{<=t}).

    A batch is a tensor of token ids (N, T), or a mapping with "input_ids" (and optionally "attention_mask" and
    "labels"). Outputs have shape (N, T, V). Padding (mask 0) and labels equal to `ignore_index` do not count; a sequence
    without any other has loss 0. The mean over examples weighs every sequence equally, however long it is.

    Args:
        ignore_index: Label that does not count.
        call: How to call the model on a batch, where `model(input_ids)` does not fit.
        output: Function that picks the scores (N, T, V) out of what the model returns.
    """

    task = "language model"
    convex = True
    natural = True

    def __init__(
        self,
        *,
        ignore_index: int = -100,
        call: Callable[[nn.Module, Batch], Any] | None = None,
        output: Callable[[Any], Tensor] | None = None,
    ) -> None:
        self.ignore_index, self._call, self._output = ignore_index, call, output

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Scores of the next token at each position, shape (N, T, V)."""
        raw = self._call(model, batch) if self._call is not None else model(self._tokens(batch))
        return self._output(raw) if self._output is not None else pick_output(raw)

    def losses(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Mean negative log-likelihood of each sequence, shape (N,)."""
        return shifted_losses(widened(outputs), self._targets(batch), self.ignore_index)

    def check(self, outputs: Tensor, batch: Batch) -> None:
        """Outputs must be (N, T, V) and token ids below V."""
        tokens = self._tokens(batch)
        if outputs.ndim != 3 or outputs.shape[:2] != tokens.shape:
            raise ObjectiveError(
                f"CausalLM needs outputs of shape ({tokens.shape[0]}, {tokens.shape[1]}, vocabulary)",
                f"shape {tuple(outputs.shape)}",
                "Return the scores of every position.",
            )
        if tokens.shape[1] < 2:
            raise ObjectiveError(
                "Next-token prediction needs sequences of at least 2 tokens",
                f"{tokens.shape[1]}",
                "Cut the texts into longer sequences.",
            )
        targets = self._targets(batch)
        counted = targets[targets != self.ignore_index]
        if counted.numel() and (int(counted.min()) < 0 or int(counted.max()) >= outputs.shape[2]):
            raise ObjectiveError(
                f"Token ids must lie in 0..{outputs.shape[2] - 1}",
                f"ids from {int(counted.min())} to {int(counted.max())}",
                "Use the tokenizer the network was made for.",
            )

    def _tokens(self, batch: Batch) -> Tensor:
        tokens = batch.get("input_ids") if isinstance(batch, Mapping) else batch
        tokens = tokens[0] if isinstance(tokens, tuple | list) else tokens
        if not isinstance(tokens, Tensor) or tokens.ndim != 2 or tokens.is_floating_point():
            raise BatchError(
                "A language-model batch must hold integer token ids (N, T), alone or under 'input_ids'",
                describe(tokens if isinstance(tokens, Tensor) else batch),
                "Tokenize and pad the texts.",
            )
        return tokens

    def _targets(self, batch: Batch) -> Tensor:
        tokens = self._tokens(batch)
        if not isinstance(batch, Mapping):
            return tokens
        targets = batch.get("labels")
        targets = tokens if targets is None else targets
        mask = batch.get("attention_mask")
        return targets if mask is None else targets.masked_fill(mask == 0, self.ignore_index)


def shifted_losses(scores: Tensor, targets: Tensor, ignore_index: int) -> Tensor:
    """Mean loss of predicting target t+1 from position t, shape (N,)."""
    return position_losses(scores[:, :-1], targets[:, 1:], ignore_index)


def position_losses(scores: Tensor, targets: Tensor, ignore_index: int) -> Tensor:
    """Mean cross-entropy over the counted positions of each sequence: scores (N, T, V), targets (N, T) -> (N,)."""
    losses = F.cross_entropy(
        scores.transpose(1, 2), targets.long(), reduction="none", ignore_index=ignore_index
    )
    return losses.sum(1) / (targets != ignore_index).sum(1).clamp(min=1)
