r"""How many labellings can a piecewise linear network give to n inputs? A bound with every constant, from Warren's lemma.

**Derivation** (Bartlett, Harvey, Liaw & Mehrabian 2019, section 4, for one breakpoint and degree 1). Fix n inputs and let the weights
vary. Suppose that in a cell of weight space all units up to layer i - 1 have chosen their linear piece on all inputs. Then each
pre-activation of layer i is, on each input, a polynomial of degree at most i in the :math:`W_i` weights of the layers 1 to
i. The :math:`n k_i` polynomials of the layer have at most :math:`2 (2 e\, n k_i\, i / W_i)^{W_i}` sign vectors where
:math:`n k_i \ge W_i`, and never more than :math:`2^{n k_i}`; each sign vector is a finer cell. Layer by layer,

.. math:: \ln \Pi(n) \le \sum_{i=1}^{L} \min\Big( \ln 2 + W_i \ln \frac{2 e\, n k_i\, i}{W_i},\; n k_i \ln 2 \Big).

For the last layer :math:`k_L` counts the comparisons that decide the label. The 0-1 loss on a *given* label is decided by the C - 1
comparisons with it, so that :math:`\ln\Pi(n)` bounds the number of *loss* vectors on the sample, whatever the labels.
A maximum over windows of K units of a layer adds the K(K-1)/2 comparisons of each window to :math:`k_i`: a non-decreasing
activation may be moved behind the maximum. Shared weights (convolutions) change nothing: they are few variables in many polynomials.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torchstone.bounds.risk_bound import check_count
from torchstone.errors import SettingError


@dataclass(frozen=True)
class LayerSize:
    """One layer of a piecewise linear network, as counting sees it.

    Args:
        weights: Its own weights and biases; shared ones once.
        units: Polynomials that are compared with zero for one input: its units, and for a maximum over K units K(K-1)/2
            more for each window.

    Raises:
        SettingError: A count below 1.
    """

    weights: int
    units: int

    def __post_init__(self) -> None:
        check_count("weights", self.weights)
        check_count("units", self.units)


def piecewise_linear_log_growth(layers: Sequence[LayerSize], n: int) -> float:
    r"""A bound on the logarithm of the number of 0-1 loss vectors that a ReLU architecture can have on n examples.

    See the module for the formula and its derivation. Activations may be any continuous or discontinuous map with one breakpoint
    and linear pieces (ReLU, leaky ReLU).

    Args:
        layers: First layer first. The last has C - 1 units for C classes: the comparisons with the right one.
        n: Number of examples.

    Returns:
        The bound in nats; `growth_risk_bound` turns it into one on the error.

    Raises:
        SettingError: No layers, or a count below 1.

    Example:
        >>> layers = [LayerSize(weights=21, units=7), LayerSize(weights=8, units=1)]
        >>> round(piecewise_linear_log_growth(layers, n=100_000) / math.log(2), 1)  # bits, of 100,000
        809.5

    Source: Bartlett, Harvey, Liaw & Mehrabian 2019, theorem 7; Warren 1968; Anthony & Bartlett 1999, theorem 8.3.
    """
    check_count("n", n)
    if not layers:
        raise SettingError(
            "A growth function needs at least one layer", "no layers", "Pass a LayerSize a layer."
        )
    total, weights = 0.0, 0
    for depth, layer in enumerate(layers, start=1):
        weights += layer.weights
        polynomials = n * layer.units
        trivial = polynomials * math.log(2)
        if polynomials >= weights:
            warren = math.log(2) + weights * math.log(2 * math.e * polynomials * depth / weights)
            total += min(warren, trivial)
        else:
            total += trivial
    # The class cannot have more loss vectors than there are.
    return min(total, n * math.log(2))


def piecewise_linear_vc_bound(layers: Sequence[LayerSize]) -> int:
    r"""An upper bound on the VC dimension of a ReLU architecture with one output.

    The largest n for which `piecewise_linear_log_growth` does not fall short of :math:`n \ln 2`, found by bisection: the bound divided by n
    decreases beyond the first n that it refutes.

    Args:
        layers: First layer first; the last has one unit.

    Returns:
        A number that the VC dimension does not exceed, of order W L ln W.

    Raises:
        SettingError: No layers.

    Example:
        >>> piecewise_linear_vc_bound([LayerSize(weights=21, units=7), LayerSize(weights=8, units=1)])
        413

    Source: Bartlett, Harvey, Liaw & Mehrabian 2019, theorem 7.
    """
    shatters = lambda n: piecewise_linear_log_growth(layers, n) >= n * math.log(2)
    high = 2 * sum(layer.weights for layer in layers)
    while shatters(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if shatters(middle) else (low, middle)
    return low
