"""Normalisation behind every weighted layer but the last, put into a model that was written without."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from torchstone.errors import RemedyError
from torchstone.mending.observing import NORMALISATIONS, Call, observed, replace_modules

_BATCH = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
_CHANNELS_A_GROUP = 16  # Wu & He 2018, table 3


def normalise(model: nn.Module, kind: str, batch: Any, call: Call) -> tuple[nn.Module, dict[str, str]]:
    """Normalise the outputs of every weighted layer but the last; normalisation that was there is taken out first.

    A layer becomes `Sequential(layer, norm)` under its old name. Maps are normalised over channels and positions by
    "layer" (group normalisation with one group), over 16 channels and positions by "group", and by channel over the
    batch by "batch".

    Args:
        model: Changed in place.
        kind: "layer", "group", "batch" or "none".
        batch: Data to find out which layers run, in which order, and their outputs' shapes.
        call: How the model takes them.

    Returns:
        The model, and what was done by the name of the module.

    Raises:
        RemedyError: Nothing to normalise or to take out, or outputs of a shape that this normalisation does not take.

    Source: Ioffe & Szegedy 2015 (before the activation); Ba, Kiros & Hinton 2016; Wu & He 2018.
    """
    names = {module: name for name, module in model.named_modules()}
    old = [module for module in names if isinstance(module, NORMALISATIONS)]
    if kind == "none" and not old:
        raise RemedyError(
            "norm=none needs normalisation layers to take out",
            f"none in {type(model).__name__}",
            "Try norm=layer, init=orthogonal or skip=residual.",
        )
    changes = {names[module]: f"{type(module).__name__} taken out" for module in old}
    model = replace_modules(model, {module: nn.Identity() for module in old})
    if kind == "none":
        return model, changes
    layers = observed(model, batch, call).layers
    new: dict[nn.Module, nn.Module] = {}
    for layer, shape in list(layers.items())[:-1]:
        if math.prod(shape[1:]) == 1:
            changes[names[layer]] = "left: a single number cannot be normalised"
            continue
        norm = _norm(kind, layer, shape, names[layer])
        changes[names[layer]] = f"{type(norm).__name__} behind it"
        new[layer] = nn.Sequential(layer, _like(norm, layer))
    if not new:
        raise RemedyError(
            f"norm={kind} needs at least two linear or convolution layers that run",
            f"{len(layers)} in {type(model).__name__}",
            "Try init=... instead.",
        )
    return replace_modules(model, new), changes


def _norm(kind: str, layer: nn.Module, shape: tuple[int, ...], name: str) -> nn.Module:
    linear = isinstance(layer, nn.Linear)
    channels = shape[-1] if linear else shape[1]
    if linear and kind == "layer":
        return nn.LayerNorm(channels)
    if linear and len(shape) != 2:
        raise RemedyError(
            f"norm={kind} normalises outputs (N, features) and maps (N, channels, ...)",
            f"{tuple(shape)} from {name}",
            "Use norm=layer.",
        )
    if kind == "batch":
        return _BATCH[len(shape)](channels)
    return nn.GroupNorm(1 if kind == "layer" else groups(channels), channels)


def groups(channels: int) -> int:
    """The most groups of equal size with at least 16 channels each.

    >>> groups(64), groups(30), groups(8)
    (4, 1, 1)
    """
    least = min(channels, _CHANNELS_A_GROUP)
    return max(g for g in range(1, channels + 1) if channels % g == 0 and channels // g >= least)


def _like(norm: nn.Module, layer: nn.Module) -> nn.Module:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    norm.to(device=weight.device, dtype=weight.dtype)
    for parameter in norm.parameters():
        parameter.requires_grad_(weight.requires_grad)
    return norm.train(layer.training)
