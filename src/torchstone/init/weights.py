"""A layer's weight, parametrised or not: how to set it, and the parameter behind it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


@torch.no_grad()
def set_weight(layer: nn.Module, values: Tensor, name: str = "weight") -> None:
    """Give a layer's weight new values in place.

    A parametrised weight (weight normalisation, orthogonal, ...) gets the parameters whose weight is nearest by its
    parametrisation's own `right_inverse`.
    """
    if parametrize.is_parametrized(layer, name):
        setattr(layer, name, values)
    else:
        getattr(layer, name).copy_(values)


def parameters_behind(layer: nn.Module, name: str = "weight") -> list[Tensor]:
    """The weight itself, or the parameters that a parametrised one is made of at each look."""
    if not parametrize.is_parametrized(layer, name):
        return [getattr(layer, name)]
    parametrisations: Any = layer.parametrizations
    return list(parametrisations[name].parameters(recurse=False))
