r"""The square x^2 on [0, 1] by a deep ReLU network whose error halves twice with every layer.

With the hat function g(x) = 2 relu(x) - 4 relu(x - 1/2) (2x up to 1/2, then 2 - 2x) and its k-fold composition g_k,
a sawtooth of 2^(k-1) teeth,

    f_m(x) = x - sum_{k=1}^m g_k(x) / 4^k

is the piecewise linear interpolant of x^2 at the 2^m + 1 points j / 2^m, so that sup |f_m - x^2| = 2^(-2m-2).
Source: Yarotsky 2017, proposition 2; the sawtooth is that of Telgarsky 2015, section 2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchstone.approximation.dense_layer import dense_layer
from torchstone.errors import SettingError


class SquareNetwork(nn.Module):
    r"""x -> f_m(x), elementwise, with m hidden layers and O(m) ReLU units; error 2^(-2m-2) on [0, 1].

    Two wirings of the same function:

    - `skip=True`: every hidden layer has two units and a direct connection to the output: 2m units.
    - `skip=False`: an ordinary dense network; the running sum is carried along by one more unit a layer, which is
      possible because it never becomes negative on [0, 1]: 3m - 1 units.

    The weights are the hand-made ones above, as parameters that can be trained on. Outside [0, 1] the function is
    continuous and says nothing about x^2.

    Cost: 2m or 3m - 1 ReLUs an element. Bias: -x^2 + f_m(x) lies in [0, 2^(-2m-2)].

    >>> network = SquareNetwork(3, dtype=torch.float64)
    >>> network.units, network.error_bound
    (8, 0.00390625)
    >>> network(torch.tensor([0.5, 0.75], dtype=torch.float64)).tolist()
    [0.25, 0.5625]

    Args:
        depth: m >= 1, the number of hidden layers.
        skip: The wiring.
        device: Of the parameters.
        dtype: Of the parameters.

    Raises:
        SettingError: A depth below 1.
    """

    def __init__(
        self,
        depth: int,
        *,
        skip: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if depth < 1:
            raise SettingError("SquareNetwork has a depth of at least 1", f"{depth}", "Pass depth=5 or so.")
        self.depth, self.skip = depth, skip
        place = torch.zeros((), device=device, dtype=dtype)
        self.hidden = nn.ModuleList(_hidden_layer(k, skip).to(place) for k in range(1, depth + 1))
        self.output = _output_layer(depth, skip).to(place)

    @property
    def units(self) -> int:
        """Number of ReLU units."""
        return 2 * self.depth if self.skip else 3 * self.depth - 1

    @property
    def error_bound(self) -> float:
        """Largest error |f_m(x) - x^2| over [0, 1], which is attained: 2^(-2m-2)."""
        return 2.0 ** (-2 * self.depth - 2)

    def forward(self, x: Tensor) -> Tensor:
        """f_m of every element of x, which should lie in [0, 1]; same shape."""
        h = x.unsqueeze(-1)
        read = [h]
        for layer in self.hidden:
            h = torch.relu(layer(h))
            read.append(h)
        return self.output(torch.cat(read, -1) if self.skip else h).squeeze(-1)


_HAT = torch.tensor([2.0, -4.0], dtype=torch.float64)  # g out of the two units relu(u) and relu(u - 1/2)


def _hidden_layer(k: int, skip: bool) -> nn.Linear:
    """Layer k: the two units of g_k and, where the sum is carried, relu(f_{k-1})."""
    hat = torch.ones(1, dtype=torch.float64) if k == 1 else _HAT
    if skip or k == 1:
        return dense_layer(torch.stack([hat, hat]), _HAT.new_tensor([0.0, -0.5]))
    hat = hat if k == 2 else torch.cat([hat, hat.new_zeros(1)])
    return dense_layer(torch.stack([hat, hat, _sum_weights(k - 1)]), _HAT.new_tensor([0.0, -0.5, 0.0]))


def _output_layer(depth: int, skip: bool) -> nn.Linear:
    weights = _sum_weights(depth)
    if skip:
        weights = torch.cat([_HAT.new_ones(1), *(-_HAT / 4.0**k for k in range(1, depth + 1))])
    return dense_layer(weights[None], _HAT.new_zeros(1))


def _sum_weights(k: int) -> Tensor:
    """Weights that give f_k out of the units of layer k: x - g_1/4 = relu(x)/2 + relu(x - 1/2), then f_{k-1} - g_k/4^k."""
    return _HAT.new_tensor([0.5, 1.0]) if k == 1 else torch.cat([-_HAT / 4.0**k, _HAT.new_ones(1)])
