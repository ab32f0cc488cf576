"""What happens when a batch is presented to a network: losses, a penalty, and a note before the update."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from torchstone.errors import ObjectiveError, TorchstoneError
from torchstone.training.evaluation import PerExample, one_per_example

Penalty = Callable[[nn.Module], Tensor]
"""From a network to one number that is added to the mean loss, for example a multiple of a norm."""


def failure(error: Exception, count: int, step: int) -> Exception:
    """What the user's network or losses raised, in words; memory that runs out stays what it is."""
    if isinstance(error, TorchstoneError | MemoryError | torch.OutOfMemoryError):
        return error
    told = ObjectiveError(
        f"losses(model, x, y) must work on every batch; it failed on {count} example{'s'[: count != 1]} at step {step}",
        f"{type(error).__name__}: {' '.join(str(error).split()) or 'no message'}",
        "Batch normalisation cannot train on one example: choose a batch size that leaves none over."
        if count == 1
        else "Call it on such a batch by itself; look at the shapes and types of x and y and at the range of labels.",
    )
    told.__cause__ = error
    return told


class Presentation:
    """Losses of a batch, the penalty, and a note by example, from one forward pass.

    Args:
        model: The network.
        losses: Loss by example.
        penalty: Added to the mean loss.
        ledger: What is noted of each example before the update, for example `evaluation.misclassified`.
    """

    def __init__(
        self,
        model: nn.Module,
        losses: PerExample,
        penalty: Penalty | None = None,
        ledger: PerExample | None = None,
    ) -> None:
        self._model, self._network = model, model if ledger is None else _CalledOnce(model)
        self._losses, self._penalty, self._ledger = losses, penalty, ledger
        self.notes = ledger is not None

    def __call__(self, x: Any, y: Any, count: int) -> tuple[Tensor, Tensor | None, Tensor]:
        """Losses (B,), penalty () or None, and note (B,), which is without gradient."""
        values = one_per_example(self._losses(self._network, x, y), count)
        note = values.detach()
        if self._ledger is not None:
            note = one_per_example(self._ledger(self._network, x, y), count).detach().to(values.dtype)
            assert isinstance(self._network, _CalledOnce)
            self._network.forget()
        penalty = self._penalty(self._model) if self._penalty is not None else None
        if isinstance(penalty, Tensor) and penalty.numel() != 1:
            raise ObjectiveError(
                "penalty(model) must return one number",
                f"shape {tuple(penalty.shape)}",
                "Take its .sum() or .mean().",
            )
        return values, penalty, note


class _CalledOnce(nn.Module):
    """A network that remembers its last call: the note costs no second forward pass and moves no statistics."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self._last: tuple[Any, Any] | None = None

        @functools.wraps(inner.forward)  # objectives look at its signature
        def forward(*inputs: Any, **settings: Any) -> Any:
            key = (*inputs, *settings.values())
            if self._last is None or [id(one) for one in key] != [id(one) for one in self._last[0]]:
                self._last = key, self.inner(*inputs, **settings)
            return self._last[1]

        self.forward = forward

    def forget(self) -> None:
        """Let go of the graph."""
        self._last = None

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)
