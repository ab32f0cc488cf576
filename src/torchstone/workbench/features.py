"""What the layers of a network output, one row per example."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from torchstone.batches import tensors
from torchstone.details import thin
from torchstone.errors import NotApplicableError
from torchstone.specimen import Specimen

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
def recording(model: nn.Module, into: dict[str, Tensor]) -> Iterator[None]:
    """Inside, every call of a leaf module puts its first output tensor into `into`, in order of execution.

    A module called several times in a forward pass appears as `name`, `name#2`, ... Modules that only drop, reshape or
    pass on their input are left out.
    """

    def keep(name: str, output: Any) -> None:
        tensor = next(tensors(output), None)
        if tensor is None or not tensor.is_floating_point():
            return
        key, calls = name, 1
        while key in into:
            calls += 1
            key = f"{name}#{calls}"
        into[key] = tensor

    handles = [
        module.register_forward_hook(
            lambda _module, _inputs, output, name=name: keep(name or "model", output)
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


def as_rows(output: Tensor, examples: int, width: int) -> Tensor | None:
    """A layer's output as (N, d): sequences are averaged over positions, maps too where d would exceed `width`.

    Returns:
        None where the output does not have one row per example.
    """
    if output.ndim == 0:
        return None
    if output.shape[0] != examples:
        if output.ndim < 3 or output.shape[1] != examples:
            return None
        output = output.transpose(0, 1)  # sequence-first layers
    if output.ndim == 3:
        return output.mean(1)
    flat = output.reshape(examples, -1)
    if output.ndim > 3 and flat.shape[1] > width:
        flat = output.flatten(2).mean(2)
    return flat


@torch.no_grad()
def layer_features(specimen: Specimen, split: str, width: int, most: int = MAX_LAYERS) -> dict[str, Tensor]:
    """Features of up to `most` layers, evenly chosen by depth: name -> float32 (N, d) on the CPU. One forward pass."""
    collected: dict[str, list[Tensor]] = {}
    chosen: list[str] | None = None
    with specimen.measuring():
        for batch in specimen.batches(split):
            seen: dict[str, Tensor] = {}
            with recording(specimen.model, seen):
                specimen.forward(batch)
            count = specimen.objective.size(batch)
            rows = {
                name: made
                for name, output in seen.items()
                if (made := as_rows(output, count, width)) is not None
            }
            if chosen is None:
                names = _without_copies(rows)
                chosen = [names[i] for i in thin(len(names), most)]
                collected = {name: [] for name in chosen}
            for name in chosen:
                if name in rows:
                    collected[name].append(rows[name].float().cpu())
    size = specimen.size(split)
    joined = {
        name: torch.cat(parts)
        for name, parts in collected.items()
        if parts and len({part.shape[1] for part in parts}) == 1 and sum(map(len, parts)) == size
    }
    if not joined:
        raise NotApplicableError("no layer of this network gives one row per example")
    return joined


def _without_copies(rows: dict[str, Tensor]) -> list[str]:
    """Names in order, skipping outputs that equal the one before (reshapes, inactive layers)."""
    names: list[str] = []
    for name, values in rows.items():
        if not names or not torch.equal(rows[names[-1]], values):
            names.append(name)
    return names
