"""A new initialisation of all weights."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from torchstone import init
from torchstone.init.fans import WEIGHTED
from torchstone.mending.observing import Call


@torch.no_grad()
def initialise(
    model: nn.Module, scheme: str, batch: Any, call: Call, generator: torch.Generator
) -> dict[str, str]:
    """Initialise a model by a scheme of `torchstone.init`, by LSUV on a batch, or on the edge of chaos.

    "critical" draws N(0, sigma_w^2 / fan_in) with the sigma_w that is critical for the activation behind each layer,
    without biases (`init.critical_point`).

    Args:
        model: Changed in place.
        scheme: One of `init.SCHEMES`, "lsuv" or "critical".
        batch: Data, to see which activation is behind which layer.
        call: How the model takes them.
        generator: Draws everything.

    Returns:
        What was done by the name of the parameter or layer.

    Raises:
        TorchstoneError: No layers, or none whose outputs vary, or an activation without an edge of chaos.
    """
    if scheme == "lsuv":
        done = init.lsuv(model, batch, generator=generator, call=call)
        return {one.name: f"orthogonal, outputs scaled to variance {one.after:.3g}" for one in done}
    chosen = "kaiming" if scheme == "critical" else scheme
    table = init.apply(model, cast(init.Scheme, chosen), generator=generator, batch=batch, call=call)
    if scheme == "critical":
        return _critical(model, init.activations_behind(model, batch, call), generator)
    return {
        row.name: f"{row.scheme}, standard deviation {row.deviation:.3g}: {row.why}"
        for row in table.rows
        if row.deviation
    }


def _critical(model: nn.Module, behind: dict[nn.Module, Any], generator: torch.Generator) -> dict[str, str]:
    # One name stands for several functions where slopes or bounds differ; their gains tell them apart.
    kinds = {layer: (name, init.gain(activation)) for layer, (name, activation) in behind.items()}
    sigmas = {kinds[layer]: init.critical_point(activation).gain for layer, (_, activation) in behind.items()}
    changes, done = {}, set()
    for name, layer in model.named_modules():
        if not isinstance(layer, WEIGHTED) or (key := id(init.parameters_behind(layer)[0])) in done:
            continue
        done.add(key)
        activation = behind[layer][0] if layer in behind else ""
        sigma = sigmas[kinds[layer]] if layer in behind else 1.0
        init.set_weight(layer, init.draw_weight(layer, "kaiming", sigma, generator))
        weight = layer.weight
        assert isinstance(weight, Tensor)
        changes[f"{name}.weight" if name else "weight"] = (
            f"critical for {activation or 'no activation'}: sigma_w = {sigma:.4g}"
        )
    return changes
