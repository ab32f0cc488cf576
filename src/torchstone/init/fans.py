"""How many inputs a unit of a weighted layer sums, and how many units an input reaches."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import nn

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
WEIGHTED = (nn.Linear, *CONVOLUTIONS, *TRANSPOSED)
Weighted = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d


class Fans(NamedTuple):
    """Terms in a unit's sum, and sums that an input enters."""

    fan_in: float
    fan_out: float


def fans(layer: nn.Module) -> Fans:
    """Fans of a linear, convolution or transposed convolution layer, groups and strides taken into account.

    An output of a transposed convolution of stride s sums, on average, in_channels prod(kernel / s) / groups terms;
    `torch.nn.init` takes the input channels of its weight for outputs.

    >>> fans(nn.Conv2d(8, 4, 3, groups=2))
    Fans(fan_in=36.0, fan_out=18.0)
    """
    if isinstance(layer, nn.Linear):
        return Fans(float(layer.in_features), float(layer.out_features))
    assert isinstance(layer, (*CONVOLUTIONS, *TRANSPOSED))
    receptive, steps = math.prod(layer.kernel_size), math.prod(layer.stride)
    one, other = layer.in_channels / layer.groups, layer.out_channels / layer.groups
    if isinstance(layer, TRANSPOSED):
        return Fans(one * receptive / steps, other * receptive)
    return Fans(one * receptive, other * receptive / steps)
