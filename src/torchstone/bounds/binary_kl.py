"""Divergence of two biased coins and its inverse, which turn an observed error rate into a bound on the true one."""

from __future__ import annotations

import math

from torchstone.bounds.risk_bound import check_at_least, check_count, check_delta
from torchstone.errors import SettingError

_SMALL, _HUGE = 0.1, 1e18


def binary_kl(q: float, p: float) -> float:
    r"""Relative entropy of coins, :math:`\mathrm{kl}(q \| p) = q \ln\frac qp + (1-q) \ln\frac{1-q}{1-p}`, in nats.

    Where q and p are close it is computed as :math:`q\,h(d/q) + (1-q)\,h(-d/(1-q))` with d = p - q and
    :math:`h(x) = x - \ln(1+x)`: both terms are non-negative, so that nothing cancels.

    Args:
        q: Observed share, in [0, 1].
        p: Probability, in [0, 1].

    Returns:
        The divergence, in [0, infinity]; infinite where p is 0 or 1 and q is not.

    Raises:
        SettingError: A number outside [0, 1].

    Example:
        >>> round(binary_kl(0.5, 0.25), 6), binary_kl(0.5, 1.0)
        (0.143841, inf)

    Source: Langford & Caruana 2001; Maurer 2004, section 1.
    """
    _check_share("q", q)
    _check_share("p", p)
    if p == q:
        return 0.0
    if abs(p - q) <= min(q, 1 - q) / 2:
        return _shifted(q, p - q)
    return _term(q, p) + _term(1 - q, 1 - p)


def kl_inverse_upper(q: float, budget: float) -> float:
    r"""Largest p with :math:`\mathrm{kl}(q \| p) \le b`, the upper end of a Chernoff interval, by bisection.

    The bisection runs over p - q, so that small budgets keep their digits. Of the last two numbers the larger is
    returned: rounding never makes a bound smaller.

    Args:
        q: Observed share, in [0, 1].
        budget: b, at least 0; infinity gives 1.

    Returns:
        p in [q, 1].

    Raises:
        SettingError: q outside [0, 1], or a negative or NaN budget.

    Example:
        >>> round(kl_inverse_upper(0.1, 0.05), 6), round(kl_inverse_upper(0.0, 0.05), 6)
        (0.220079, 0.048771)

    Source: Seeger 2002, section 2; Dziugaite & Roy 2017, section 2.1 (there by Newton's method).
    """
    _check_share("q", q)
    if math.isnan(budget) or budget < 0:
        raise SettingError(
            "The budget of a divergence must be at least 0", str(budget), "Pass a bound on the divergence."
        )
    if budget == 0 or q == 1:
        return q
    if budget == math.inf:
        return 1.0
    if q == 0:
        return -math.expm1(-budget)
    low, high = 0.0, 1.0 - q
    while True:
        middle = (low + high) / 2
        if not low < middle < high:
            return min(1.0, q + high)
        if _shifted(q, middle) > budget:
            high = middle
        else:
            low = middle


def kl_inverse_lower(q: float, budget: float) -> float:
    r"""Smallest p with :math:`\mathrm{kl}(q \| p) \le b`: one minus the largest one for 1 - q.

    Args:
        q: Observed share, in [0, 1].
        budget: b, at least 0.

    Returns:
        p in [0, q].

    Raises:
        SettingError: q outside [0, 1], or a negative or NaN budget.
    """
    _check_share("q", q)
    return min(q, 1.0 - kl_inverse_upper(1.0 - q, budget))


def stochastic_risk_upper(mean: float, draws: int, delta: float) -> float:
    r"""Bound on the empirical risk of a stochastic network, :math:`\hat R(Q)`, from a Monte-Carlo estimate of it.

    :math:`\mathrm{kl}^{-1}(\bar R, \ln(1/\delta) / m)`, the one-sided Chernoff bound for the mean of m independent numbers in
    [0, 1] of one expectation. They need not be losses of whole passes over the sample: pairs of a fresh network and a
    fresh minibatch, drawn uniformly from the sample, have the same expectation and cost less each.

    Args:
        mean: Mean of the m numbers.
        draws: m.
        delta: Largest probability of failure, over the draws.

    Returns:
        The bound, in [mean, 1].

    Raises:
        SettingError: A mean outside [0, 1], no draws, or delta outside (0, 1).

    Example:
        >>> round(stochastic_risk_upper(0.02, draws=1000, delta=0.01), 4)
        0.0365

    Source: Hoeffding 1963, theorem 1; Langford & Caruana 2001 (there two-sided, ln(2 / delta)).
    """
    _check_share("mean", mean)
    return kl_inverse_upper(mean, -math.log(check_delta(delta)) / check_count("draws", draws))


def _check_share(name: str, value: float) -> None:
    check_at_least(name, value)
    if value > 1:
        raise SettingError(f"{name} must lie in [0, 1]", str(value), "Pass a share, not a percentage.")


def _term(a: float, b: float) -> float:
    """Relative entropy's summand a ln(a / b)."""
    if a == 0:
        return 0.0
    return a * (math.log(a) - math.log(b)) if b > 0 else math.inf


def _shifted(q: float, d: float) -> float:
    """Divergence of q, inside (0, 1), from q + d."""
    return _excess(q, d) + _excess(1 - q, -d)


def _excess(a: float, d: float) -> float:
    """Non-negative summand a h(d / a) with h(x) = x - ln(1 + x), without cancellation near 0."""
    x = d / a
    if x <= -1:
        return math.inf
    if x > _HUGE:  # d / a may have overflowed
        return d - a * (math.log(d) - math.log(a))
    if abs(x) > _SMALL:
        return d - a * math.log1p(x)
    # x^2/2 - x^3/3 + ...: 20 terms of at most 0.1^k are beyond the last digit.
    return d * x * math.fsum((-x) ** k / (k + 2) for k in range(20))
