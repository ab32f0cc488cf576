"""Layer-sequential unit variance: scale each layer's weight until its outputs on real data have variance one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torchstone.errors import NumericalError, SettingError
from torchstone.init.fans import WEIGHTED
from torchstone.init.schemes import draw_weight
from torchstone.init.weights import set_weight


@dataclass(frozen=True)
class LsuvLayer:
    """What happened to one layer.

    Attributes:
        name: The layer.
        before: Variance of its outputs with orthogonal weights.
        after: The same at the end.
        passes: Forward passes it took.
    """

    name: str
    before: float
    after: float
    passes: int


@torch.no_grad()
def lsuv(
    model: nn.Module,
    batch: Any,
    *,
    generator: torch.Generator,
    call: Callable[[nn.Module, Any], Any] = lambda model, batch: model(batch),
    tolerance: float = 0.02,
    max_passes: int = 10,
) -> list[LsuvLayer]:
    """Orthogonal weights, scaled layer after layer until each layer's outputs on a batch have variance 1.

    In order of execution, the weight of each linear and convolution layer is divided by the standard deviation of its
    outputs. Changes the weights and nothing else: modes, buffers and hooks are as before. Biases are left as they are.

    Cost: two to three forward passes a layer.

    Args:
        model: Changed in place.
        batch: Real data.
        generator: Draws the orthogonal weights.
        call: How the model takes a batch.
        tolerance: Deviation of the variance from 1 that is small enough.
        max_passes: At most this many passes a layer.

    Returns:
        What happened, layer by layer in order of execution.

    Raises:
        SettingError: No linear or convolution layer runs on the batch.
        NumericalError: A layer whose outputs do not vary, or are not finite.

    Source: Mishkin & Matas 2016, ICLR, algorithm 1.
    """
    order = _order_of_execution(model, batch, call)
    if not order:
        raise SettingError(
            "LSUV needs linear or convolution layers that run",
            "none",
            "Check that the model uses its layers.",
        )
    for layer in order.values():
        set_weight(layer, draw_weight(layer, "orthogonal", 1.0, generator))
    found = []
    for name, layer in order.items():
        variance = before = _variance(model, layer, batch, call, name)
        passes = 1
        while abs(variance - 1) > tolerance and passes < max_passes:
            weight = layer.weight
            assert isinstance(weight, Tensor)
            set_weight(layer, weight / variance**0.5)
            variance = _variance(model, layer, batch, call, name)
            passes += 1
        found.append(LsuvLayer(name, before, variance, passes))
    return found


class _Enough(Exception):
    """The layer has run: the rest of the forward pass is of no interest."""


def _order_of_execution(
    model: nn.Module, batch: Any, call: Callable[[nn.Module, Any], Any]
) -> dict[str, nn.Module]:
    order: dict[str, nn.Module] = {}
    names: dict[nn.Module, str] = {
        module: name for name, module in model.named_modules() if isinstance(module, WEIGHTED)
    }

    def see(module: nn.Module, *_: Any) -> None:
        order.setdefault(names[module], module)

    handles = [module.register_forward_hook(see) for module in names]
    try:
        _run(model, batch, call)
    finally:
        for handle in handles:
            handle.remove()
    return order


def _variance(
    model: nn.Module, layer: nn.Module, batch: Any, call: Callable[[nn.Module, Any], Any], name: str
) -> float:
    seen: list[float] = []

    def see(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        seen.append(float(output.double().var()))
        raise _Enough

    handle = layer.register_forward_hook(see)
    try:
        _run(model, batch, call)
    except _Enough:
        pass
    finally:
        handle.remove()
    if not 0 < seen[0] < float("inf"):
        raise NumericalError(
            f"The outputs of {name} must vary",
            f"variance {seen[0]}",
            "Check the batch, and dead layers before it.",
        )
    return seen[0]


def _run(model: nn.Module, batch: Any, call: Callable[[nn.Module, Any], Any]) -> None:
    """One forward pass that leaves buffers, such as running statistics, and the global random state alone."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    try:
        with torch.random.fork_rng(devices=devices):
            call(model, batch)
    finally:
        for buffer, saved in buffers:
            buffer.copy_(saved)
