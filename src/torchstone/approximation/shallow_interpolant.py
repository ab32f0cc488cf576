r"""Piecewise linear interpolation by a ReLU network of one hidden layer.

    f(x) = f(t_0) + sum_{j=0}^{n-1} c_j relu(x - t_j),   c_j = slope of piece j minus slope of piece j - 1

has n units and, on [t_0, t_n], n linear pieces: one hidden layer spends one unit on every piece.
Source: the classical construction; the count of pieces is in Telgarsky 2015, section 2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchstone.approximation.dense_layer import dense_layer
from torchstone.errors import SettingError


def shallow_interpolant(knots: Tensor, values: Tensor) -> nn.Sequential:
    """The network (N, 1) -> (N, 1) of n hidden units that interpolates n + 1 points and is linear between them.

    Left of the first knot it is constant, right of the last one it goes on with the last slope.

    Cost: n ReLUs an input.

    Args:
        knots: t (n + 1,), increasing.
        values: f at the knots (n + 1,).

    Returns:
        `Linear(1, n)`, `ReLU`, `Linear(n, 1)` in the dtype and on the device of the knots.

    Raises:
        SettingError: Fewer than two knots, knots that do not increase, or another number of values.

    >>> knots = torch.tensor([0.0, 0.5, 1.0])
    >>> shallow_interpolant(knots, knots**2)(torch.tensor([[0.25], [0.5]])).flatten().tolist()
    [0.125, 0.25]
    """
    if knots.ndim != 1 or len(knots) < 2 or values.shape != knots.shape:
        raise SettingError(
            "shallow_interpolant() takes vectors of n + 1 >= 2 knots and as many values",
            f"shapes {tuple(knots.shape)} and {tuple(values.shape)}",
            "Pass one value a knot.",
        )
    widths = knots.diff()
    if not bool((widths > 0).all()):
        raise SettingError("Knots must increase", f"a step of {float(widths.min())}", "Sort them.")
    slopes = values.diff() / widths
    changes = slopes.diff(prepend=slopes.new_zeros(1))
    hidden = dense_layer(torch.ones_like(slopes)[:, None], -knots[:-1])
    output = dense_layer(changes[None], values[:1])
    return nn.Sequential(hidden, nn.ReLU(), output)
