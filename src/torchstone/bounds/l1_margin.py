r"""A margin bound on the error of a trained network from the l1 size of its weights, with every constant.

.. math:: P[\arg\max_k f(x)_k \ne y] \le \hat R_\theta + \frac{4}{\theta}\, \frac{A}{n} \sqrt{2 V T} + 3 \sqrt{\frac{\ln (2/\delta) + \ln(1/p)}{2n}}

for all networks and all margins at once. :math:`\hat R_\theta` is the ramp risk, :math:`\sqrt 2/\theta`-Lipschitz in the outputs' 2-norm
(`torchstone.bounds.spectral_margin`, step 1), so Maurer's contraction gives
:math:`2 \hat{\mathfrak R} \le 2 \sqrt 2 \frac{\sqrt 2}{\theta}` times the complexity of `torchstone.bounds.weight_size`. A is rounded up and
:math:`\theta` down to a grid (`torchstone.bounds.grid`), whose price is ln(1/p).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from torchstone.bounds.grid import cell_above, cell_below
from torchstone.bounds.margin import margin_choices
from torchstone.bounds.risk_bound import RiskBound, check_at_least, check_count, check_delta
from torchstone.bounds.spectral_margin import check_theta, ramp_loss
from torchstone.bounds.weight_size import l1_rademacher
from torchstone.errors import NumericalError, SettingError

_ASSUMES = (
    "Independent examples of one law, activations that are 1-Lipschitz and 0 at 0, and an architecture fixed beforehand "
    "(its width does not matter)."
)


def l1_margin_bound(
    margins: Tensor,
    norm: float,
    coordinate_norm: float,
    dimensions: int,
    depth: int,
    outputs: int,
    maxima: Sequence[int] = (),
    branches: int = 2,
    theta: float | None = None,
    delta: float = 0.05,
) -> RiskBound:
    r"""A bound on the test error from the weight size or the l1 path norm; formula and proof in the module.

    Args:
        margins: Training margins (n,), from `margins`.
        norm: A: `weight_size(...).value`, or an l1 path norm for networks of ReLUs.
        coordinate_norm: From `largest_coordinate_norm` of the n inputs, with the constant where there are biases.
        dimensions: d, with the constant where there are biases.
        depth: L, weight layers.
        outputs: C, classes.
        maxima: Window sizes of pooling by maximum.
        branches: 3 where biases are carried past activations other than ReLUs, else 2.
        theta: Margin asked for; None for the best of 32 quantiles of the positive ones.
        delta: Probability of failure.

    Returns:
        The bound and its parts, vacuous or not; infinite where the norm is.

    Raises:
        SettingError: No margins, or an argument out of range.
        NumericalError: Margins that are NaN.

    Source: Bartlett & Mendelson 2002, theorem 18; Golowich, Rakhlin & Shamir 2018, theorem 2; Maurer 2016, corollary 4.
    """
    if margins.ndim != 1 or margins.numel() == 0:
        raise SettingError(
            "l1_margin_bound needs margins (n,), n >= 1", f"shape {tuple(margins.shape)}", "Pass one each."
        )
    values = margins.detach().double()
    if bool(torch.isnan(values).any()):
        raise NumericalError("Margins must not be NaN", "NaN", "Find the layer that produced it.")
    check_delta(delta)
    n = check_count("n", len(values))
    if norm == math.inf:
        return RiskBound(1.0, math.inf, 3 * math.sqrt(math.log(2 / delta) / (2 * n)), delta, 1.0, _ASSUMES)
    size = cell_above(check_at_least("norm", norm))
    complexity = l1_rademacher(size.value, coordinate_norm, dimensions, n, depth, outputs, maxima, branches)
    found = [
        _at(values, choice, complexity, size.log_price, delta)
        for choice in ([theta] if theta is not None else margin_choices(values))
    ]
    return min(found, key=lambda bound: (bound.value, bound.complexity))


def _at(margins: Tensor, theta: float, complexity: float, log_price: float, delta: float) -> RiskBound:
    below = cell_below(check_theta(theta))
    price = math.log(2 / delta) + log_price + below.log_price
    return RiskBound(
        empirical=float(ramp_loss(margins, below.value).mean()),
        complexity=4 / below.value * complexity,
        deviation=3 * math.sqrt(price / (2 * len(margins))),
        delta=delta,
        largest_loss=1.0,
        assumes=_ASSUMES,
    )
