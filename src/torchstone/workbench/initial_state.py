"""The examined network as it was before training, where the recipe knows."""

from __future__ import annotations

import copy

import torch

from torchstone.specimen import Specimen


def at_initialisation(specimen: Specimen) -> tuple[Specimen | None, tuple[str, ...]]:
    """A specimen whose model is a copy with the recipe's initial weights, or None and why there is none.

    Entries of the state that the network has in that shape are taken; every trainable parameter must be among them.

    Args:
        specimen: What is examined; it stays as it is.
    """
    recipe = specimen.recipe
    if recipe is None or not recipe.initial_state:
        return None, (
            "With Recipe(initial_state=...) the network before training is measured and judged too.",
        )
    state = dict(recipe.initial_state)
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    missing = [name for name, p in specimen.trainable.items() if shapes.get(name) != tuple(p.shape)]
    if missing:
        return None, (
            f"The recipe's initial_state does not fit the network ({missing[0]}), and is not used.",
        )
    start = copy.copy(specimen)
    for cached in ("trainable", "device", "dtype"):
        start.__dict__.pop(cached, None)
    start.model = copy.deepcopy(specimen.model)
    with torch.no_grad():
        known = start.model.state_dict()
        for name in state.keys() & known.keys():
            if known[name].shape == state[name].shape:
                known[name].copy_(state[name])
    return start, ()
