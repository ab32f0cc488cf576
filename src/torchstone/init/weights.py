"""Set a layer's weight, parametrised or not."""

from __future__ import annotations

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
