"""A watcher that a trainer owns: begun when training begins, ended however training ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from torchstone.watching.watch import Watch


class Attachment:
    """Begins, feeds and ends one watcher at a time.

    Losses of the parts of an accumulated batch are added up until the optimiser steps, weighted as the trainer weights them.

    Args:
        data: What `torchstone.watch` takes.
        options: Its options.

    Attributes:
        watcher: The watcher of the run that goes on, or of the last one.
    """

    def __init__(self, data: Any, options: Mapping[str, Any]) -> None:
        self.watcher: Watch | None = None
        self._data, self._options = data, dict(options)
        self._running = False
        self._loss: Tensor | float | None = None

    def begin(self, model: nn.Module, optimizer: Optimizer, steps: int = 0) -> None:
        """Begin; a run that never ended is ended first.

        Args:
            model: What trains.
            optimizer: Its optimiser, or a wrapper around it.
            steps: That a resumed run had taken before.
        """
        self.end()
        self.watcher = Watch(model, bare(optimizer), self._data, **{"resumed": steps, **self._options})
        self.watcher.__enter__()
        self._running, self._loss = True, None

    def add(self, loss: Any, weight: float = 1.0) -> None:
        """The loss of a part of the batch."""
        if isinstance(loss, Tensor | float | int):
            part = loss.detach() if isinstance(loss, Tensor) else float(loss)
            self._loss = weight * part + (0.0 if self._loss is None else self._loss)

    def step(self) -> None:
        """The optimiser has stepped."""
        if self.watcher is not None and self._running:
            self.watcher.step(self._loss)
        self._loss = None

    def end(self, error: BaseException | None = None) -> None:
        """End; nothing happens when it has ended already."""
        if self.watcher is not None and self._running:
            self._running = False
            self.watcher.__exit__(type(error) if error is not None else None, error, None)


def bare(optimizer: Any) -> Optimizer:
    """The optimiser itself inside the wrappers of Lightning and Accelerate, which carry no hooks of their own."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer) and inner is not optimizer:
        optimizer = inner
    return optimizer
