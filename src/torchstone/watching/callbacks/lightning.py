"""Watch what a Lightning trainer trains."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from torchstone.errors import SettingError
from torchstone.watching.callbacks.attachment import Attachment


def lightning_callback(
    data: Any = None,
    *,
    model: Callable[[Any], nn.Module] = lambda module: module,
    optimizer: int = 0,
    **options: Any,
) -> Any:
    """A callback for `lightning.Trainer(callbacks=[...])`, of `lightning` or `pytorch_lightning`, whichever is installed.

    Gradients are seen as the optimiser sees them: after accumulation, unscaling and clipping.

    Args:
        data: A `Specimen` or a batch to measure on; None watches only losses, gradients, updates and weights.
        model: Which part of the Lightning module is measured; by default the module itself, called as `module(x)`.
        optimizer: Which of its optimisers is watched.
        options: Those of `torchstone.watch`, such as `folder` and `every`.

    Returns:
        The callback; its `attachment.watcher` is the watcher.

    Raises:
        SettingError: Neither package is installed.
    """
    attachment = Attachment(data, options)

    class WatchCallback(_callback_class()):
        def __init__(self) -> None:
            super().__init__()
            self.attachment = attachment
            self._seen = 0

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            optimizers = trainer.optimizers
            if not 0 <= optimizer < len(optimizers):
                raise SettingError(
                    "lightning_callback(optimizer=...) must be the place of one of the trainer's optimisers",
                    f"{optimizer} of {len(optimizers)}",
                    "The first one is 0.",
                )
            self._seen = trainer.global_step
            attachment.begin(model(pl_module), optimizers[optimizer], self._seen)

        def on_train_batch_end(
            self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            # The trainer has divided it by the number of batches that it accumulates.
            attachment.add(outputs.get("loss") if isinstance(outputs, Mapping) else outputs)
            if trainer.global_step != self._seen:
                self._seen = trainer.global_step
                attachment.step()

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            attachment.end()

        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
            attachment.end(exception)

    return WatchCallback()


def _callback_class() -> Any:
    for name in ("lightning.pytorch", "pytorch_lightning"):
        try:
            return importlib.import_module(name).Callback
        except ImportError:
            continue
    raise SettingError(
        "lightning_callback() needs the package lightning or pytorch_lightning",
        "neither of them",
        "Install one: pip install lightning.",
    )
