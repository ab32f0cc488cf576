"""Which elementwise activations a network runs, on what inputs, whether as modules or as functions."""

from __future__ import annotations

import contextlib
import math
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from torchstone.batches import tensors
from torchstone.workbench.units import UnitAxis


@dataclass(frozen=True)
class Shape:
    """Where an activation is flat, and the bounds of its outputs.

    Args:
        flat_below: Inputs up to here have a slope below 1e-6 (exactly 0 for piecewise linear functions).
        flat_above: Inputs from here on.
        bounds: Least and greatest output, where it saturates on both sides.
    """

    flat_below: float = -math.inf
    flat_above: float = math.inf
    bounds: tuple[float, float] | None = None

    def is_flat(self, low: Tensor, high: Tensor) -> Tensor:
        """Whether inputs in [low, high] all lie on one flat side."""
        return (high <= self.flat_below) | (low >= self.flat_above)


# By name of the operator. Points where the slope falls to 1e-6: tanh' = 1 - y^2 at 7.6, sigmoid' = y (1 - y) at 13.8, ...
_SHAPES = {
    "relu": Shape(flat_below=0.0),
    "tanh": Shape(-7.6, 7.6, (-1.0, 1.0)),
    "sigmoid": Shape(-13.8, 13.8, (0.0, 1.0)),
    "hardsigmoid": Shape(-3.0, 3.0, (0.0, 1.0)),
    "hardswish": Shape(flat_below=-3.0),
    "gelu": Shape(flat_below=-5.6),
    "silu": Shape(flat_below=-16.7),
    "mish": Shape(flat_below=-16.7),
    "elu": Shape(flat_below=-13.8),
    "celu": Shape(flat_below=-13.8),
    "softplus": Shape(flat_below=-13.8),
    "leaky_relu": Shape(),
    "_prelu_kernel": Shape(),
    "rrelu_with_noise": Shape(),
}
_GATES = ("sigmoid", "hardsigmoid")


def _shape(kind: str, arguments: tuple[Any, ...]) -> Shape | None:
    if kind == "threshold":
        return Shape(flat_below=float(arguments[1]))
    if kind == "hardtanh":
        given = [float(value) for value in arguments[1:3]]
        low, high = given + [-1.0, 1.0][len(given) :]
        # ReLU6 rests at its lower bound half of the time, as ReLU does.
        return Shape(low, high, (low, high) if low < 0 < high else None)
    return _SHAPES.get(kind)


class Watcher(Protocol):
    """Is told of activations; what `activation` returns is handed back to `gate`."""

    def activation(self, name: str, kind: str, shape: Shape, inputs: Tensor, outputs: Tensor) -> Any:
        """An activation ran inside the module `name`; rows of inputs and outputs (units, values)."""
        ...

    def gate(self, record: Any) -> None:
        """The outputs of that activation were multiplied with something: it is a gate."""
        ...


class _ActivationWatch(TorchDispatchMode):
    """Sees every elementwise activation below autograd, also those of recurrent cells."""

    def __init__(self, path: list[str], axis: UnitAxis, watcher: Watcher) -> None:
        super().__init__()
        self.path, self.axis, self.watcher = path, axis, watcher
        self.gates: dict[int, tuple[weakref.ref[Tensor], Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        kind = name.rstrip("_")
        first = args[0] if args and isinstance(args[0], Tensor) else None
        shape = _shape(kind, args) if first is not None and first.ndim >= 2 else None
        if shape is None:
            if kind == "mul":
                self._multiplied(args)
            return func(*args, **(kwargs or {}))
        assert first is not None
        before = first.clone() if name.endswith("_") else first
        result = func(*args, **(kwargs or {}))
        after = next(tensors(result))
        axis = self.axis.of(after)
        by_unit = lambda values: values.detach().movedim(axis, 0).flatten(1)
        where = self.path[-1] if self.path else "model"
        record = self.watcher.activation(where, kind.strip("_"), shape, by_unit(before), by_unit(after))
        if kind in _GATES:
            self.gates[id(after)] = (weakref.ref(after), record)
        return result

    def _multiplied(self, args: tuple[Any, ...]) -> None:
        for one in args:
            reference, record = self.gates.get(id(one), (None, None))
            if reference is not None and reference() is one:
                self.watcher.gate(record)


@contextlib.contextmanager
def watching_activations(model: nn.Module, watcher: Watcher) -> Iterator[None]:
    """Inside, the watcher is told of every elementwise activation the network runs.

    Recurrent layers whose whole pass is one fused kernel do not show theirs.
    """
    path: list[str] = []
    axis = UnitAxis()

    def leave(module: nn.Module, _: Any, output: Any) -> None:
        path.pop()
        tensor = next(tensors(output), None)
        if tensor is not None:
            axis.see(module, tensor)

    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(lambda *_, name=name: path.append(name or "model")))
        handles.append(module.register_forward_hook(leave, always_call=True))
    try:
        with torch.no_grad(), _ActivationWatch(path, axis, watcher):
            yield
    finally:
        for handle in handles:
            handle.remove()
