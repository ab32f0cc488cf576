r"""Fat shattering: the VC dimension at a margin, which large networks of small weights have little of.

A class :math:`\gamma`-shatters points if for some thresholds :math:`r_i` every sign vector is realised with
:math:`\sigma_i (f(x_i) - r_i) \ge \gamma`; :math:`fat(\gamma)` is the largest number of such points.

On n shattered points the Rademacher complexity is at least :math:`\gamma`, because
:math:`E \sup_f \frac1n \sum_i \sigma_i f(x_i) \ge E \frac1n \sum_i \sigma_i r_i + \gamma`. A complexity of at most :math:`c / \sqrt n` on all samples
therefore gives :math:`fat(\gamma) \le (c/\gamma)^2`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torchstone.bounds.risk_bound import RiskBound, check_at_least, check_count, check_delta
from torchstone.bounds.weight_size import log_classes
from torchstone.errors import NumericalError, SettingError


def linear_fat_shattering(weight_norm: float, input_norm: float, gamma: float) -> int:
    r"""Bound for linear functions with :math:`\|w\|_2 \le B` on inputs of :math:`\|x\|_2 \le R`: :math:`\lfloor (BR/\gamma)^2 \rfloor`.

    Args:
        weight_norm: B.
        input_norm: R.
        gamma: Margin, positive.

    Returns:
        The bound; it does not depend on the dimension.

    Raises:
        SettingError: A negative norm or a margin that is not positive.

    Example:
        >>> linear_fat_shattering(weight_norm=2.0, input_norm=3.0, gamma=1.0)
        36

    Source: Bartlett & Shawe-Taylor 1999.
    """
    reach = check_at_least("weight_norm", weight_norm) * check_at_least("input_norm", input_norm)
    ratio = reach / check_at_least("gamma", gamma, strictly=True)
    return _floor(ratio * ratio)


def l1_fat_shattering(
    norm: float, largest_input: float, dimensions: int, depth: int, gamma: float, branches: int = 2
) -> int:
    r"""Bound for one output of a network of weight size A, :math:`\lfloor 2 T (A X / \gamma)^2 \rfloor` with T of `torchstone.bounds.weight_size`.

    For two layers it is of order :math:`(A/\gamma)^2 \ln d`: sizes of weights and the number of inputs, not of units.

    Args:
        norm: A, from `weight_size`.
        largest_input: X, the largest absolute input (at least 1 where there are biases).
        dimensions: d, with the constant where there are biases.
        depth: L, weight layers.
        gamma: Margin, positive.
        branches: 3 where biases are carried past activations other than ReLUs, else 2.

    Returns:
        The bound.

    Raises:
        SettingError: An argument out of range.

    Example:
        >>> l1_fat_shattering(norm=10.0, largest_input=1.0, dimensions=64, depth=2, gamma=1.0)
        1109

    Source: Bartlett 1998 (two layers, another constant); the step from the complexity is in the module.
    """
    reach = check_at_least("norm", norm) * check_at_least("largest_input", largest_input)
    ratio = reach / check_at_least("gamma", gamma, strictly=True)
    return _floor(2 * log_classes(dimensions, depth, branches=branches) * ratio * ratio)


def fat_shattering_bound(margins: Tensor, gamma: float, fat_dimension: int, delta: float = 0.05) -> RiskBound:
    r"""Bartlett's bound on the error of a binary classifier sign f from its margins :math:`y_i f(x_i)`.

    .. math:: P[y f(x) \le 0] \le \frac{|\{i : y_i f(x_i) < \gamma\}|}{n}
              + \sqrt{\frac2n \Big(D \ln \frac{34 e n}{D} \log_2 (578 n) + \ln \frac4\delta\Big)}, \qquad D = fat(\gamma / 16)

    Args:
        margins: :math:`y_i f(x_i)` on the sample (n,).
        gamma: Margin fixed before looking at the sample, positive.
        fat_dimension: D, or a bound on it: the fat-shattering dimension of the class at :math:`\gamma / 16`. At least 1.
        delta: Probability of failure, below 1/2.

    Returns:
        The bound; the margin error, then the root split so that its logarithm of 4/delta stands alone in `deviation`.

    Raises:
        SettingError: No margins, or an argument out of range.
        NumericalError: Margins that are NaN.

    Source: Bartlett 1998.
    """
    if margins.ndim != 1 or margins.numel() == 0:
        raise SettingError(
            "fat_shattering_bound needs margins (n,)", f"shape {tuple(margins.shape)}", "Pass y * f(x)."
        )
    if bool(torch.isnan(margins).any()):
        raise NumericalError("Margins must not be NaN", "NaN", "Find the layer that produced it.")
    check_at_least("gamma", gamma, strictly=True)
    n, d = len(margins), check_count("fat_dimension", fat_dimension)
    sample = math.log(4 / check_delta(delta))
    # The logarithm is meant for D <= n; beyond, the bound exceeds 1 anyway and stays increasing in D.
    capacity = d * max(1.0, math.log(34 * math.e * n / d)) * math.log2(578 * n)
    whole = math.sqrt(2 / n * (capacity + sample))
    deviation = math.sqrt(2 / n * sample)
    return RiskBound(
        empirical=float((margins.detach().double() < gamma).double().mean()),
        complexity=whole - deviation,
        deviation=deviation,
        delta=delta,
        largest_loss=1.0,
        assumes="Independent examples of one law, two classes, a class of functions and a margin fixed beforehand.",
    )


def _floor(value: float) -> int:
    if not math.isfinite(value):
        raise SettingError(
            "The fat-shattering bound must be finite", str(value), "Use a larger margin or smaller weights."
        )
    # A value such as 36.000000000000004 - 1e-15 must not lose a point to rounding.
    return math.floor(value * (1 + 1e-12))
