r"""Bounds on the error of a classifier from how many labellings its class can give: Vapnik and Chervonenkis.

Independent of the law and of the algorithm. For networks with more weights than examples they are vacuous, which is a
statement about the bound and not about the network.
"""

from __future__ import annotations

import math

from torchstone.bounds.growth import sauer_sum
from torchstone.bounds.risk_bound import RiskBound, check_at_least, check_count, check_delta, check_mean_loss

_ASSUMES = "Independent examples of one law, 0-1 loss, and a class of signs fixed before the sample."


def growth_risk_bound(error: float, log_growth: float, n: int, delta: float = 0.05) -> RiskBound:
    r"""A bound on the error of all members at once from the growth function.

    .. math:: R(h) \le \hat R(h) + \sqrt{\frac{2 \ln \Pi_H(n)}{n}} + \sqrt{\frac{\ln(1/\delta)}{2n}}

    It is the Rademacher bound with Massart's lemma for the labellings of the sample.

    Args:
        error: Share of wrong predictions on the sample.
        log_growth: :math:`\ln \Pi_H(n)`, in nats, a bound on it or, where the points are fixed beforehand, the logarithm of the number of
            labellings of these points.
        n: Number of independent examples.
        delta: Probability of failure.

    Returns:
        The bound; vacuous values are kept.

    Raises:
        SettingError: An argument out of its range.

    Source: Mohri, Rostamizadeh & Talwalkar 2018, corollary 3.9; Vapnik & Chervonenkis 1971, theorem 2, with other constants.
    """
    check_mean_loss(error, 1.0)
    check_count("n", n)
    complexity = math.sqrt(2 * check_at_least("log_growth", log_growth) / n)
    deviation = math.sqrt(math.log(1 / check_delta(delta)) / (2 * n))
    return RiskBound(error, complexity, deviation, delta, 1.0, _ASSUMES)


def vc_risk_bound(error: float, vc_dimension: int, n: int, delta: float = 0.05) -> RiskBound:
    r"""A bound on the error of all members at once from the VC dimension.

    `growth_risk_bound` with Sauer's sum :math:`\sum_{k \le d} \binom nk` for the growth function, which is smaller than the
    usual :math:`(en/d)^d`.

    Args:
        error: Share of wrong predictions on the sample.
        vc_dimension: d.
        n: Number of independent examples.
        delta: Probability of failure.

    Returns:
        The bound; vacuous values are kept.

    Raises:
        SettingError: An argument out of its range.

    Example:
        >>> round(vc_risk_bound(0.02, vc_dimension=3, n=10_000).value, 4)
        0.1041

    Source: Mohri, Rostamizadeh & Talwalkar 2018, corollary 3.19.
    """
    return growth_risk_bound(error, math.log(sauer_sum(n, vc_dimension)), n, delta)


def consistent_vc_bound(vc_dimension: int, n: int, delta: float = 0.05) -> RiskBound:
    r"""A bound on the error of every member that makes no error on the sample: rate 1/n instead of its root.

    .. math:: R(h) \le \frac2n \Big(\log_2 \Pi_H(2n) + \log_2 \frac2\delta\Big) \quad\text{for all } h \text{ with } \hat R(h) = 0

    with Sauer's sum for the growth function.

    Args:
        vc_dimension: d.
        n: Number of independent examples.
        delta: Probability of failure.

    Returns:
        The bound; vacuous values are kept.

    Raises:
        SettingError: An argument out of its range.

    Source: Blumer, Ehrenfeucht, Haussler & Warmuth 1989, theorem 2.1 and appendix A2.
    """
    check_count("n", n)
    complexity = 2 / n * math.log2(sauer_sum(2 * n, vc_dimension))
    return RiskBound(0.0, complexity, 2 / n * math.log2(2 / check_delta(delta)), delta, 1.0, _ASSUMES)
