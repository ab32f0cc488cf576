"""The coin divergence and its inverse against 50-digit arithmetic, and the exact coverage of the Chernoff limit."""

from __future__ import annotations

import math
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.stats import binom

from torchstone.bounds.binary_kl import binary_kl, kl_inverse_lower, kl_inverse_upper, stochastic_risk_upper
from torchstone.errors import SettingError

SHARES = (1e-12, 1e-6, 0.003, 0.1, 0.5, 0.9, 1 - 1e-6)
BUDGETS = (1e-18, 1e-12, 1e-6, 1e-3, 0.05, 0.7, 5.0, 40.0)


def precise_kl(share: float, p: Any) -> Any:
    q = mpmath.mpf(share)
    first = q * mpmath.log(q / p) if q > 0 else mpmath.mpf(0)
    if p == 1:
        return mpmath.inf if q < 1 else first
    return first + ((1 - q) * mpmath.log((1 - q) / (1 - p)) if q < 1 else 0)


def precise_inverse(q: float, budget: float) -> Any:
    """Bisection in 50 digits, with a formula of its own."""
    low, high = mpmath.mpf(q), mpmath.mpf(1)
    for _ in range(130):
        middle = (low + high) / 2
        low, high = (middle, high) if precise_kl(q, middle) <= budget else (low, middle)
    return low


@pytest.mark.parametrize("q", [0.0, *SHARES, 1.0])
@pytest.mark.parametrize("p", [1e-300, 1e-9, 0.0029, 0.1 + 1e-9, 0.5, 0.97])
def test_divergence_to_the_last_digits(q: float, p: float) -> None:
    with mpmath.workdps(50):
        assert binary_kl(q, p) == pytest.approx(float(precise_kl(q, mpmath.mpf(p))), rel=1e-12)


def test_divergence_at_the_ends() -> None:
    assert binary_kl(0, 0) == binary_kl(1, 1) == binary_kl(0.3, 0.3) == 0
    assert binary_kl(0, 1) == binary_kl(1, 0) == binary_kl(0.5, 0) == binary_kl(0.5, 1) == math.inf
    assert binary_kl(0, 0.25) == pytest.approx(-math.log(0.75), rel=1e-15)
    assert binary_kl(1, 0.25) == pytest.approx(-math.log(0.25), rel=1e-15)


@pytest.mark.parametrize("q", SHARES)
@pytest.mark.parametrize("budget", BUDGETS)
def test_inverse_to_1e_10(q: float, budget: float) -> None:
    with mpmath.workdps(50):
        upper, exact = kl_inverse_upper(q, budget), precise_inverse(q, budget)
        assert abs(upper - exact) < 1e-10
        assert abs(upper - exact) < 1e-13 + 1e-7 * float(exact - q)  # small moves keep their digits too
        mirrored = 1 - precise_inverse(1 - q, budget)
        assert abs(kl_inverse_lower(q, budget) - mirrored) < 1e-10


@pytest.mark.parametrize("budget", BUDGETS)
def test_inverse_at_the_ends(budget: float) -> None:
    assert kl_inverse_upper(0, budget) == pytest.approx(-math.expm1(-budget), rel=1e-12)
    assert kl_inverse_upper(1, budget) == 1
    assert kl_inverse_lower(0, budget) == 0
    assert kl_inverse_lower(1, budget) == pytest.approx(math.exp(-budget), rel=1e-9, abs=1e-16)
    assert kl_inverse_upper(0.3, 0) == kl_inverse_lower(0.3, 0) == 0.3
    assert kl_inverse_upper(0.3, math.inf) == 1
    assert kl_inverse_lower(0.3, math.inf) == 0


@given(st.floats(0, 1), st.floats(0, 50))
@example(math.nextafter(1, 0), 1.0)
def test_inverse_is_one(q: float, budget: float) -> None:
    upper, lower = kl_inverse_upper(q, budget), kl_inverse_lower(q, budget)
    assert 0 <= lower <= q <= upper <= 1
    if upper < 1:  # a little further is too far
        assert binary_kl(q, min(1.0, upper + 1e-9)) >= budget * (1 - 1e-12)
    # Next to 1 there is no number between q and the bound, which is rounded up.
    inside = min(q + 0.999 * (upper - q), math.nextafter(upper, 0))
    assert binary_kl(q, inside) <= budget * (1 + 1e-9) + 1e-15


@pytest.mark.parametrize("m", [7, 60, 400])
@pytest.mark.parametrize("delta", [0.01, 0.2])
def test_monte_carlo_limit_covers_exactly(m: int, delta: float) -> None:
    """For coin flips the probability of failure is a binomial tail, which needs no simulation."""
    counts = np.arange(m + 1)
    limits = np.array([stochastic_risk_upper(k / m, m, delta) for k in counts])
    failures = [binom.pmf(counts[limits < p], m, p).sum() for p in np.linspace(0.001, 0.999, 333)]
    assert max(failures) <= delta
    assert max(failures) > delta / 20  # and the limit is not idle: Chernoff loses only a root of m or so
    twice = np.array([stochastic_risk_upper(k / m, 4 * m, delta) for k in counts])
    assert max(binom.pmf(counts[twice < p], m, p).sum() for p in np.linspace(0.05, 0.95, 99)) > delta


@pytest.mark.parametrize("wrong", [-0.1, 1.1, math.nan])
def test_shares_outside_the_interval_are_refused(wrong: float) -> None:
    for call in (
        lambda: binary_kl(wrong, 0.5),
        lambda: binary_kl(0.5, wrong),
        lambda: kl_inverse_upper(wrong, 1.0),
        lambda: kl_inverse_lower(wrong, 1.0),
        lambda: stochastic_risk_upper(wrong, 10, 0.1),
    ):
        with pytest.raises(SettingError, match=r"must lie in \[0, 1\]|must be finite and at least 0"):
            call()


@pytest.mark.parametrize("budget", [-1e-9, math.nan])
def test_negative_budgets_are_refused(budget: float) -> None:
    with pytest.raises(SettingError, match="budget of a divergence must be at least 0"):
        kl_inverse_upper(0.2, budget)


def test_no_draws_and_no_delta_are_refused() -> None:
    with pytest.raises(SettingError, match="draws must be a whole number of at least 1"):
        stochastic_risk_upper(0.1, 0, 0.1)
    with pytest.raises(SettingError, match="delta, the probability of failure"):
        stochastic_risk_upper(0.1, 10, 0.0)
