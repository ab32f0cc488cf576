"""One look at a model while it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from torchstone.errors import SettingError, blaming

Call = Callable[[nn.Module, Any], Any]


def plain_call(model: nn.Module, batch: Any) -> Any:
    """How most models take a batch: model(batch)."""
    return model(batch)


@torch.no_grad()
def forward_once(model: nn.Module, batch: Any, call: Call = plain_call) -> None:
    """One forward pass that leaves buffers, such as running statistics, and the global random state as they were.

    Raises:
        SettingError: The model does not take the batch.
    """
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    try:
        with (
            torch.random.fork_rng(devices=devices),
            blaming(
                SettingError,
                "The model must run on the batch",
                "Pass a batch as the model takes it, or call=.",
                "forward()",
            ),
        ):
            call(model, batch)
    finally:
        for buffer, saved in buffers:
            buffer.copy_(saved)
