"""Which activation follows each weighted layer of a model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from torchstone.init.fans import WEIGHTED
from torchstone.init.forward import Call, forward_once, plain_call
from torchstone.init.mean_field import Activation

Found = tuple[str, Activation]

_FUNCTIONS: dict[Any, Found] = {
    function: (name, activation)
    for name, activation, functions in (
        ("relu", functional.relu, (torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, functional.relu)),
        ("tanh", torch.tanh, (torch.tanh, torch.tanh_, Tensor.tanh, Tensor.tanh_, functional.tanh)),
        ("sigmoid", torch.sigmoid, (torch.sigmoid, Tensor.sigmoid, functional.sigmoid)),
        ("leaky_relu", functional.leaky_relu, (functional.leaky_relu,)),
        ("elu", functional.elu, (functional.elu,)),
        ("selu", functional.selu, (torch.selu, functional.selu)),
        ("gelu", functional.gelu, (functional.gelu,)),
        ("silu", functional.silu, (functional.silu,)),
        ("mish", functional.mish, (functional.mish,)),
        ("softplus", functional.softplus, (functional.softplus,)),
        ("hardtanh", functional.hardtanh, (functional.hardtanh,)),
        ("relu6", functional.relu6, (functional.relu6,)),
        ("hardswish", functional.hardswish, (functional.hardswish,)),
        ("celu", functional.celu, (torch.celu, functional.celu)),
        ("softsign", functional.softsign, (functional.softsign,)),
        ("hardsigmoid", functional.hardsigmoid, (functional.hardsigmoid,)),
        ("erf", torch.erf, (torch.erf, Tensor.erf)),
        ("sin", torch.sin, (torch.sin, Tensor.sin)),
    )
    for function in functions
}
_MODULES: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.Tanh: "tanh",
    nn.Sigmoid: "sigmoid",
    nn.LeakyReLU: "leaky_relu",
    nn.ELU: "elu",
    nn.SELU: "selu",
    nn.GELU: "gelu",
    nn.SiLU: "silu",
    nn.Mish: "mish",
    nn.Softplus: "softplus",
    nn.Hardtanh: "hardtanh",
    nn.ReLU6: "relu6",
    nn.Hardswish: "hardswish",
    nn.CELU: "celu",
    nn.Softsign: "softsign",
    nn.Hardsigmoid: "hardsigmoid",
    nn.PReLU: "prelu",
}


def activations_behind(
    model: nn.Module, batch: Any = None, call: Call = plain_call
) -> dict[nn.Module, Found]:
    """Name and function of the first activation that runs after each linear or convolution layer.

    With a batch the model is run once and whatever runs before the next such layer counts, also functions; without,
    modules are taken in their order of registration. Layers with no activation behind them are left out. The model is
    as it was afterwards.

    Args:
        model: The model.
        batch: Data, or None.
        call: How the model takes a batch.

    Raises:
        SettingError: The model does not take the batch.
    """
    if batch is None:
        return _by_registration(model)
    watch = _Watch()
    handles = [
        module.register_forward_hook(watch.ran) for module in model.modules() if isinstance(module, WEIGHTED)
    ]
    handles += [
        module.register_forward_pre_hook(watch.activated)
        for module in model.modules()
        if type(module) in _MODULES
    ]
    try:
        with watch:
            forward_once(model, batch, call)
    finally:
        for handle in handles:
            handle.remove()
    return watch.found


def _by_registration(model: nn.Module) -> dict[nn.Module, Found]:
    found: dict[nn.Module, Found] = {}
    pending: nn.Module | None = None
    for module in model.modules():
        if isinstance(module, WEIGHTED):
            pending = module
        elif pending is not None and type(module) in _MODULES:
            found[pending] = _of_module(module)
            pending = None
    return found


def _of_module(module: nn.Module) -> Found:
    """The module's own function, with its slope or bounds, on tensors that it must not overwrite."""
    if isinstance(module, nn.PReLU):
        return _prelu(module.weight)
    return _MODULES[type(module)], lambda z: module(z.clone())


def _prelu(slopes: Tensor) -> Found:
    """ReLU with learned slopes, which theory takes at their root mean square."""
    slope = float(slopes.detach().double().square().mean().sqrt())
    return "prelu", lambda z: functional.leaky_relu(z, slope)


def _of_call(func: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Found:
    """A function with the settings of this call, such as a slope."""
    name, activation = _FUNCTIONS[func]
    options = {key: value for key, value in options.items() if key not in ("input", "inplace", "out")}
    if not arguments and not options:
        return name, activation
    return name, lambda z: activation(z, *arguments, **options)


class _Watch(TorchFunctionMode):
    """The last weighted layer that ran waits for an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[nn.Module, Found] = {}
        self.pending: nn.Module | None = None

    def ran(self, module: nn.Module, *_: Any) -> None:
        self.pending = module

    def activated(self, module: nn.Module, *_: Any) -> None:
        self._note(_of_module(module))

    def _note(self, found: Found) -> None:
        if self.pending is not None:
            self.found.setdefault(self.pending, found)
            self.pending = None

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        if func in _FUNCTIONS:
            self._note(_of_call(func, args[1:], options))
        elif func in (torch.prelu, Tensor.prelu) and len(args) > 1:
            self._note(_prelu(args[1]))
        return func(*args, **options)
