"""Signals through a network: which elementwise activations ran, and the gradient that reaches each layer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from torchstone.batches import tensors
from torchstone.specimen import Specimen

# Bounds at which an activation saturates; None for unbounded sides.
BOUNDS: dict[str, tuple[float | None, float | None]] = {
    "relu": (0.0, None),
    "relu_": (0.0, None),
    "threshold": (0.0, None),
    "tanh": (-1.0, 1.0),
    "tanh_": (-1.0, 1.0),
    "sigmoid": (0.0, 1.0),
    "sigmoid_": (0.0, 1.0),
    "hardtanh": (None, None),
    "hardtanh_": (None, None),
    "hardsigmoid": (0.0, 1.0),
    "gelu": (None, None),
    "silu": (None, None),
    "silu_": (None, None),
    "elu": (None, None),
    "elu_": (None, None),
    "leaky_relu": (None, None),
    "leaky_relu_": (None, None),
    "softplus": (0.0, None),
    "mish": (None, None),
    "hardswish": (None, None),
    "hardswish_": (None, None),
}


class _ActivationWatch(TorchDispatchMode):
    """Sees every elementwise activation the network runs, whether as a module or as a function."""

    def __init__(self, path: list[str], see: Callable[[str, str, Tensor], None]) -> None:
        super().__init__()
        self.path, self.see = path, see

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in BOUNDS and isinstance(result, Tensor) and result.ndim >= 2:
            self.see(self.path[-1] if self.path else "model", name.rstrip("_"), result)
        return result


@contextlib.contextmanager
def watching_activations(model: nn.Module, see: Callable[[str, str, Tensor], None]) -> Iterator[None]:
    """Inside, `see(module name, activation, output)` is called for every elementwise activation."""
    path: list[str] = []
    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(lambda *_, name=name: path.append(name or "model")))
        handles.append(module.register_forward_hook(lambda *_: path.pop() and None, always_call=True))
    try:
        with _ActivationWatch(path, see):
            yield
    finally:
        for handle in handles:
            handle.remove()


@dataclass
class BackwardSignals:
    """Squared norms of the loss gradient, one row an example.

    Args:
        layers: Name of a layer with weights -> squared norms (N,) of the gradient at its output, in order of execution.
        steps: Name of a recurrent layer -> squared norms (N, T) of the gradient at its input of each time step.
    """

    layers: dict[str, Tensor] = field(default_factory=dict)
    steps: dict[str, Tensor] = field(default_factory=dict)


def backward_signals(specimen: Specimen, rows: int, split: str = "train") -> BackwardSignals:
    """Gradient of each example's loss at the output of each layer that has weights, over the first `rows` examples.

    Layers are leaf modules with parameters; a module called twice appears as `name` and `name#2`. Cost: one forward and
    one backward pass over those examples.
    """
    parts: list[BackwardSignals] = []
    seen = 0
    with specimen.measuring(), torch.enable_grad():
        for batch in specimen.batches(split):
            part = _of_batch(specimen, batch)
            parts.append(part)
            seen += specimen.objective.size(batch)
            if seen >= rows:
                break
    joined = BackwardSignals()
    for kind in ("layers", "steps"):
        names = [
            name for name in getattr(parts[0], kind) if all(name in getattr(part, kind) for part in parts)
        ]
        for name in names:
            values = [getattr(part, kind)[name] for part in parts]
            if len({value.shape[1:] for value in values}) == 1:
                getattr(joined, kind)[name] = torch.cat(values)[:rows]
    return joined


def _of_batch(specimen: Specimen, batch: Any) -> BackwardSignals:
    outputs: dict[str, Tensor] = {}
    inputs: dict[str, tuple[Tensor, bool]] = {}
    with _capturing(specimen.model, outputs, inputs):
        losses = specimen.losses(specimen.forward(batch), batch)
    wanted = [*outputs.values(), *(tensor for tensor, _ in inputs.values())]
    if not wanted or not losses.requires_grad:
        return BackwardSignals()
    gradients = specimen.grad(losses.sum(), wanted, batch, allow_unused=True)
    count = specimen.objective.size(batch)
    result = BackwardSignals()
    for name, gradient in zip([*outputs], gradients[: len(outputs)], strict=True):
        by_example = _by_example(gradient, count)
        if by_example is not None:
            result.layers[name] = by_example.double().square().sum(1).cpu()
    for (name, (_, batch_first)), gradient in zip(inputs.items(), gradients[len(outputs) :], strict=True):
        stepped = gradient if batch_first else gradient.transpose(0, 1)
        result.steps[name] = stepped.double().square().sum(2).cpu()
    return result


def _by_example(gradient: Tensor, count: int) -> Tensor | None:
    if gradient.ndim >= 1 and gradient.shape[0] == count:
        return gradient.reshape(count, -1)
    if gradient.ndim >= 3 and gradient.shape[1] == count:
        return gradient.transpose(0, 1).reshape(count, -1)
    return None


@contextlib.contextmanager
def _capturing(
    model: nn.Module, outputs: dict[str, Tensor], inputs: dict[str, tuple[Tensor, bool]]
) -> Iterator[None]:
    """Keep the outputs of leaf modules with weights and the inputs of recurrent ones, all part of the graph."""

    def keep_output(name: str, output: Any) -> Tensor | None:
        tensor = next(tensors(output), None)
        if tensor is None or not tensor.is_floating_point() or not tensor.requires_grad:
            return None
        key, calls = name, 1
        while key in outputs:
            calls += 1
            key = f"{name}#{calls}"
        outputs[key] = tensor
        # An in-place activation that follows must overwrite a copy, or the kept tensor would be its output.
        return tensor.clone() if tensor is output else None

    def keep_input(name: str, module: nn.RNNBase, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        first = arguments[0] if arguments else None
        if not isinstance(first, Tensor) or first.ndim != 3:  # packed sequences have no common time axis
            return None
        tracked = first if first.requires_grad else first.detach().requires_grad_(True)
        inputs[name] = (tracked, module.batch_first)
        return (tracked, *arguments[1:])

    handles = []
    for name, module in model.named_modules():
        is_leaf = not any(True for _ in module.children())
        if is_leaf and any(True for _ in module.parameters(recurse=False)):
            hook = lambda _module, _inputs, output, name=name: keep_output(name or "model", output)
            handles.append(module.register_forward_hook(hook))
        if isinstance(module, nn.RNNBase):
            before = lambda module, arguments, name=name: keep_input(name or "model", module, arguments)
            handles.append(module.register_forward_pre_hook(before))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
