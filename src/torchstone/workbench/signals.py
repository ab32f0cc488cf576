"""The gradient of each example's loss on its way back: at the output of every layer, at every time step."""

from __future__ import annotations

import contextlib
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from torchstone.batches import tensors
from torchstone.specimen import Specimen


@dataclass
class BackwardSignals:
    """Squared norms of the loss gradient, one row an example.

    Args:
        layers: Name of a layer with weights -> squared norms (N,) of the gradient at its output, in order of execution.
        steps: Name of a recurrent layer -> squared norms (N, T) of the gradient at its input of each time step.
    """

    layers: dict[str, Tensor] = field(default_factory=dict)
    steps: dict[str, Tensor] = field(default_factory=dict)


def backward_signals(specimen: Specimen, rows: Tensor | None = None, split: str = "train") -> BackwardSignals:
    """Gradient of each example's loss at the output of each layer that has weights.

    Layers are leaf modules with parameters; a module called twice appears as `name` and `name#2`. What follows them may
    work in place. Layers whose outputs do not have one row per example are left out.

    Cost: one forward and one backward pass over those examples; memory of the outputs of one batch, twice.

    Args:
        specimen: What to look at.
        rows: Increasing indices of the examples; None for all.
        split: Part of the data.
    """
    parts: list[BackwardSignals] = []
    with specimen.measuring(), torch.enable_grad():
        for batch in specimen.batches(split, rows):
            parts.append(_of_batch(specimen, batch))
    joined = BackwardSignals()
    for kind in ("layers", "steps"):
        names = [
            name for name in getattr(parts[0], kind) if all(name in getattr(part, kind) for part in parts)
        ]
        for name in names:
            values = [getattr(part, kind)[name] for part in parts]
            if len({value.shape[1:] for value in values}) == 1:
                getattr(joined, kind)[name] = torch.cat(values)
    return joined


def _of_batch(specimen: Specimen, batch: Any) -> BackwardSignals:
    outputs: dict[str, list[Tensor]] = {}
    inputs: dict[str, tuple[Tensor, bool]] = {}
    with _capturing(specimen.model, outputs, inputs):
        losses = specimen.losses(specimen.forward(batch), batch)
    wanted = [tensor for kept in outputs.values() for tensor in kept] + [one for one, _ in inputs.values()]
    if not wanted or not losses.requires_grad:
        return BackwardSignals()
    # None, not zeros, for what the loss does not depend on: only a true zero is a vanished gradient.
    found = iter(specimen.grad(losses.sum(), wanted, batch, allow_unused=True, materialize_grads=False))
    count = specimen.objective.size(batch)
    result = BackwardSignals()
    for name, kept in outputs.items():
        gradients = [gradient for gradient in islice(found, len(kept)) if gradient is not None]
        by_example = _by_example(gradients[0], count) if gradients else None
        if by_example is not None:
            result.layers[name] = by_example.double().square().sum(1).cpu()
    for (name, (_, batch_first)), gradient in zip(inputs.items(), found, strict=True):
        if gradient is not None:
            stepped = gradient if batch_first else gradient.transpose(0, 1)
            if len(stepped) == count:
                result.steps[name] = stepped.double().square().sum(2).cpu()
    return result


def call_name(name: str, taken: Container[str]) -> str:
    """The name of a module's next call in one forward pass: name, name#2, name#3, ..."""
    key, calls = name, 1
    while key in taken:
        calls += 1
        key = f"{name}#{calls}"
    return key


def _by_example(gradient: Tensor, count: int) -> Tensor | None:
    if gradient.ndim >= 1 and gradient.shape[0] == count:
        return gradient.reshape(count, -1)
    if gradient.ndim >= 3 and gradient.shape[1] == count:
        return gradient.transpose(0, 1).reshape(count, -1)
    return None


@contextlib.contextmanager
def _capturing(
    model: nn.Module, outputs: dict[str, list[Tensor]], inputs: dict[str, tuple[Tensor, bool]]
) -> Iterator[None]:
    """Keep the outputs of leaf modules with weights and the inputs of recurrent ones, all part of the graph."""

    def keep_output(name: str, output: Any) -> Tensor | None:
        # Of a recurrent layer's outputs, the sequence or the last state may be what is used.
        kept = [one for one in tensors(output) if one.is_floating_point() and one.requires_grad]
        if kept:
            outputs[call_name(name, outputs)] = kept
        # An in-place activation that follows must overwrite a copy, or the kept tensor would be its output.
        return output.clone() if kept and kept[0] is output else None

    def keep_input(name: str, module: nn.RNNBase, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        first = arguments[0] if arguments else None
        if not isinstance(first, Tensor) or first.ndim != 3:  # packed sequences have no common time axis
            return None
        tracked = first if first.requires_grad else first.detach().requires_grad_(True)
        inputs[call_name(name, inputs)] = (tracked, module.batch_first)
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
