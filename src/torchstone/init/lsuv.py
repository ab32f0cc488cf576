"""Layer-sequential unit variance: scale each layer's weight until its outputs on real data have variance one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torchstone.errors import NumericalError, SettingError
from torchstone.init.fans import WEIGHTED
from torchstone.init.forward import Call, forward_once, plain_call
from torchstone.init.schemes import draw_weight, require_generator
from torchstone.init.weights import parameters_behind, set_weight


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
    call: Call = plain_call,
    tolerance: float = 0.02,
    max_passes: int = 10,
) -> list[LsuvLayer]:
    """Orthogonal weights, scaled layer after layer until each layer's outputs on a batch have variance 1.

    In order of execution, the weight of each linear and convolution layer is divided by the standard deviation of its
    outputs; a weight shared by several layers, or a layer that runs several times, by that of its first run. Changes the
    weights and nothing else: modes, buffers and hooks are as before, and biases are left as they are. Where it fails the
    weights are those of before.

    Cost: two to three forward passes a layer; memory of a copy of the parameters.

    Args:
        model: Changed in place.
        batch: Real data.
        generator: Draws the orthogonal weights; on the CPU.
        call: How the model takes a batch.
        tolerance: Deviation of the variance from 1 that is small enough.
        max_passes: At most this many passes a layer.

    Returns:
        What happened, layer by layer in order of execution.

    Raises:
        SettingError: A setting out of range, a model that does not take the batch, or no linear or convolution layer
            that runs on it.
        NumericalError: A layer whose outputs do not vary or are not finite, or whose variance is not brought to 1.

    Source: Mishkin & Matas 2016, ICLR, algorithm 1.
    """
    require_generator(generator)
    if not 0 < tolerance < 1 or not isinstance(max_passes, int) or max_passes < 2:
        raise SettingError(
            "lsuv needs a tolerance between 0 and 1 and at least 2 passes",
            f"tolerance={tolerance}, max_passes={max_passes}",
            "0.02 and 10 are usual.",
        )
    order = _order_of_execution(model, batch, call)
    if not order:
        raise SettingError(
            "LSUV needs linear or convolution layers that run",
            "none",
            "Check that the model uses its layers.",
        )
    saved = [(parameter, parameter.clone()) for parameter in model.parameters()]
    try:
        for layer in order.values():
            set_weight(layer, draw_weight(layer, "orthogonal", 1.0, generator))
        run = lambda: forward_once(model, batch, call)
        return [_scaled(name, layer, run, tolerance, max_passes) for name, layer in order.items()]
    except BaseException:
        for parameter, values in saved:
            parameter.copy_(values)
        raise


def _scaled(
    name: str, layer: nn.Module, run: Callable[[], None], tolerance: float, max_passes: int
) -> LsuvLayer:
    variance = before = _variance(name, layer, run)
    passes = 1
    while abs(variance - 1) > tolerance:
        if passes == max_passes:
            raise NumericalError(
                f"Scaling the weight of {name or 'the layer'} must bring the variance of its outputs to 1",
                f"{variance:.3g} after {passes} passes",
                "Its bias decides, or a parametrisation such as spectral normalisation: set the bias to 0, take that off, or "
                "check the batch.",
            )
        weight = layer.weight
        assert isinstance(weight, Tensor)
        set_weight(layer, weight / variance**0.5)
        variance = _variance(name, layer, run)
        passes += 1
    return LsuvLayer(name, before, variance, passes)


class _Enough(BaseException):
    """The layer has run: the rest of the forward pass is of no interest, and nothing in it may catch this."""


def _order_of_execution(model: nn.Module, batch: Any, call: Call) -> dict[str, nn.Module]:
    """Layers by name, each weight once."""
    order: dict[str, nn.Module] = {}
    names: dict[nn.Module, str] = {
        module: name for name, module in model.named_modules() if isinstance(module, WEIGHTED)
    }
    weights: dict[int, nn.Module] = {}

    def see(module: nn.Module, *_: Any) -> None:
        if weights.setdefault(id(parameters_behind(module)[0]), module) is module:
            order.setdefault(names[module], module)

    handles = [module.register_forward_hook(see) for module in names]
    try:
        forward_once(model, batch, call)
    finally:
        for handle in handles:
            handle.remove()
    return order


def _variance(name: str, layer: nn.Module, run: Callable[[], None]) -> float:
    seen: list[float] = []

    def see(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        seen.append(float(output.double().var()) if output.numel() > 1 else 0.0)
        raise _Enough

    handle = layer.register_forward_hook(see)
    try:
        run()
    except _Enough:
        pass
    finally:
        handle.remove()
    if not 0 < seen[0] < float("inf"):
        raise NumericalError(
            f"The outputs of {name or 'the layer'} must vary",
            f"variance {seen[0]}",
            "Check the batch, and dead layers before it.",
        )
    return seen[0]
