"""Watch what a Hugging Face Trainer trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from torchstone.errors import SettingError
from torchstone.objectives import HuggingFace
from torchstone.watching.callbacks.attachment import Attachment


def huggingface_callback(data: Any = None, **options: Any) -> Any:
    """A callback for `transformers.Trainer(callbacks=[...])`; needs `torchstone[huggingface]`.

    A trainer tells callbacks no losses, so they are taken from the model's own output while it trains.

    Args:
        data: A `Specimen`, or a batch as the data collator makes it, to measure on; None watches only losses, gradients,
            updates and weights.
        options: Those of `torchstone.watch`, such as `folder` and `every`; `objective` is `HuggingFace()` unless given.

    Returns:
        The callback; its `attachment.watcher` is the watcher.

    Raises:
        SettingError: transformers is not installed.
    """
    try:
        from transformers import TrainerCallback
    except ImportError as error:
        raise SettingError(
            "huggingface_callback() needs the package transformers",
            f"{type(error).__name__}: {error}",
            'Install it: pip install "torchstone[huggingface]".',
        ) from None
    if isinstance(data, Mapping):
        options = {"objective": HuggingFace(), **options}
    attachment = Attachment(data, options)

    class WatchCallback(TrainerCallback):
        def __init__(self) -> None:
            self.attachment = attachment
            self._hook: Any = None

        def on_train_begin(
            self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **_: Any
        ) -> None:
            self._forget()
            attachment.begin(model, optimizer, int(getattr(state, "global_step", 0)))
            parts = max(1, int(args.gradient_accumulation_steps))
            self._hook = model.register_forward_hook(_Losses(attachment, parts), with_kwargs=True)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            attachment.step()

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self._forget()
            attachment.end()

        def _forget(self) -> None:
            if self._hook is not None:
                self._hook.remove()
                self._hook = None

    return WatchCallback()


class _Losses:
    """A forward hook that hands on the training losses that a model computes from its labels."""

    def __init__(self, attachment: Attachment, parts: int) -> None:
        self.attachment, self.parts = attachment, parts

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any
    ) -> None:
        if not (module.training and torch.is_grad_enabled()):
            return
        loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
        if loss is not None:
            # With the number of items the model has divided by the whole batch's; else each part is a mean of its own.
            whole = kwargs.get("num_items_in_batch") is not None
            self.attachment.add(loss.mean(), 1.0 if whole else 1.0 / self.parts)
