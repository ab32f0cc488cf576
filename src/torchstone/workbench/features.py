"""What the layers of a network output, one row per example."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from torchstone.batches import tensors
from torchstone.details import thin
from torchstone.errors import NotApplicableError
from torchstone.specimen import Specimen
from torchstone.workbench.signals import call_name
from torchstone.workbench.units import UnitAxis

MAX_LAYERS = 24
_TRANSPARENT = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.Identity,
    nn.Flatten,
)


@contextlib.contextmanager
def recording(model: nn.Module, keep: Callable[[str, Tensor, int], None]) -> Iterator[None]:
    """Inside, every call of a leaf module gives its name, its first output tensor and the axis of its units to `keep`.

    Modules that only drop, reshape or pass on their input are left out. The tensor may be overwritten in place after
    `keep` returns.
    """
    axis = UnitAxis()

    def see(module: nn.Module, output: Any, name: str) -> None:
        tensor = next(tensors(output), None)
        if tensor is not None and tensor.is_floating_point() and tensor.ndim:
            axis.see(module, tensor)
            keep(name, tensor, axis.of(tensor))

    handles = [
        module.register_forward_hook(
            lambda module, _inputs, output, name=name: see(module, output, name or "model")
        )
        for name, module in model.named_modules()
        if _is_leaf(module) and not isinstance(module, _TRANSPARENT)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _is_leaf(module: nn.Module) -> bool:
    # Attention calls its output projection's weight directly, so its own output stands for its children's.
    return not any(True for _ in module.children()) or isinstance(module, nn.MultiheadAttention)


def as_rows(output: Tensor, examples: int, width: int, axis: int | None = None) -> Tensor | None:
    """A layer's output as float32 (N, d): sequences are averaged over positions, maps where d would exceed `width`.

    Args:
        output: The output.
        examples: N.
        width: Largest d of a map that is kept whole.
        axis: The axis of its units: the last one for sequences (N, T, d), 1 for maps (N, C, ...); None to go by the
            number of dimensions.

    Returns:
        A new tensor, or None where the output does not have one row per example.
    """
    if output.ndim == 0:
        return None
    axis = UnitAxis().of(output) if axis is None else axis
    if output.shape[0] != examples:
        if output.ndim < 3 or output.shape[1] != examples:
            return None
        output = output.transpose(0, 1)  # sequence-first layers
    values = output.float()
    is_sequence = values.ndim == 3 and axis == 2
    if is_sequence or (values.ndim >= 3 and values[0].numel() > width):
        values = values.movedim(axis, 1).flatten(2).mean(2)
    return values.reshape(examples, -1).to("cpu", copy=True)


@torch.no_grad()
def layer_features(specimen: Specimen, split: str, width: int, most: int = MAX_LAYERS) -> dict[str, Tensor]:
    """Features of up to `most` layers, evenly chosen by depth: name -> float32 (N, d) on the CPU. One forward pass.

    A module called several times in a forward pass appears as `name`, `name#2`, ...
    """
    collected: dict[str, list[Tensor]] = {}
    chosen: list[str] | None = None
    with specimen.measuring():
        for batch in specimen.batches(split):
            rows = _of_batch(specimen, batch, width, chosen)
            if chosen is None:
                names = _without_copies(rows)
                chosen = [names[i] for i in thin(len(names), most)]
                collected = {name: [] for name in chosen}
            for name in chosen:
                if name in rows:
                    collected[name].append(rows[name])
    size = specimen.size(split)
    joined = {
        name: torch.cat(parts)
        for name, parts in collected.items()
        if parts and len({part.shape[1] for part in parts}) == 1 and sum(map(len, parts)) == size
    }
    if not joined:
        raise NotApplicableError("no layer of this network gives one row per example")
    return joined


def _of_batch(specimen: Specimen, batch: Any, width: int, chosen: list[str] | None) -> dict[str, Tensor]:
    count, rows, called = specimen.objective.size(batch), {}, set()

    def keep(name: str, output: Tensor, axis: int) -> None:
        key = call_name(name, called)
        called.add(key)
        if chosen is None or key in chosen:
            made = as_rows(output, count, width, axis)
            if made is not None:
                rows[key] = made

    with recording(specimen.model, keep):
        specimen.forward(batch)
    return rows


def _without_copies(rows: dict[str, Tensor]) -> list[str]:
    """Names in order, skipping outputs that equal the one before (reshapes, inactive layers)."""
    names: list[str] = []
    for name, values in rows.items():
        if not names or not torch.equal(rows[names[-1]], values):
            names.append(name)
    return names
