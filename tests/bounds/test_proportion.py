"""Coverage by exact enumeration of all outcomes, closed forms and SciPy as references."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from torchstone.bounds.interval import Interval
from torchstone.bounds.proportion import (
    bonferroni_difference,
    clopper_pearson,
    hoeffding,
    newcombe_difference,
    wilson,
)
from torchstone.errors import SettingError

GRID = np.concatenate([[1e-6, 1e-3], np.linspace(0.005, 0.995, 397), [1 - 1e-3, 1 - 1e-6]])


def exact_coverage(intervals: list[Interval], p: np.ndarray) -> np.ndarray:
    """Probability, at each p, that the interval of the observed count holds p."""
    n = len(intervals) - 1
    counts = np.arange(n + 1)
    inside = np.array([(i.low <= p) & (p <= i.high) for i in intervals])
    return (stats.binom.pmf(counts[:, None], n, p) * inside).sum(axis=0)


@pytest.mark.parametrize("trials", [1, 2, 7, 30, 100])
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
def test_clopper_pearson_never_covers_less_than_it_says(trials: int, confidence: float) -> None:
    intervals = [clopper_pearson(k, trials, confidence) for k in range(trials + 1)]
    assert exact_coverage(intervals, GRID).min() >= confidence - 1e-12


@pytest.mark.parametrize(("k", "n"), [(0, 5), (3, 10), (10, 10), (17, 4000), (999_999, 1_000_000)])
def test_clopper_pearson_agrees_with_scipy(k: int, n: int) -> None:
    ours, theirs = clopper_pearson(k, n, 0.97), stats.binomtest(k, n).proportion_ci(0.97, "exact")
    assert ours.low == pytest.approx(theirs.low, rel=1e-9, abs=1e-15)
    assert ours.high == pytest.approx(theirs.high, rel=1e-9)


@pytest.mark.parametrize("k", [1, 4, 9])
def test_clopper_pearson_ends_invert_the_one_sided_tests(k: int) -> None:
    interval = clopper_pearson(k, 10, 0.9)
    assert stats.binom.sf(k - 1, 10, interval.low) == pytest.approx(0.05, rel=1e-9)
    assert stats.binom.cdf(k, 10, interval.high) == pytest.approx(0.05, rel=1e-9)


@pytest.mark.parametrize(("k", "n"), [(0, 5), (3, 10), (10, 10), (17, 4000)])
def test_wilson_agrees_with_scipy_and_solves_its_equation(k: int, n: int) -> None:
    ours, theirs = wilson(k, n, 0.9), stats.binomtest(k, n).proportion_ci(0.9, "wilson")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=1e-12, abs=1e-15)
    z = stats.norm.ppf(0.95)
    for end in (ours.low, ours.high):
        assert abs(k / n - end) == pytest.approx(z * math.sqrt(end * (1 - end) / n), rel=1e-9, abs=1e-12)


def test_wilson_covers_about_nominally_on_average() -> None:
    coverage = exact_coverage([wilson(k, 50) for k in range(51)], np.linspace(0.001, 0.999, 999))
    assert coverage.mean() == pytest.approx(0.95, abs=0.01)


def test_hoeffding_covers_every_bernoulli_law_and_has_its_closed_form() -> None:
    intervals = [hoeffding(k / 40, 40, 0.9) for k in range(41)]
    assert exact_coverage(intervals, GRID).min() >= 0.9
    wide = hoeffding(5.0, 200, 0.95, support=(-10, 30))
    assert wide.width == pytest.approx(2 * 40 * math.sqrt(math.log(40) / 400), rel=1e-12)
    assert hoeffding(0.0, 3).low == 0.0


def difference_coverage(method: Callable[..., Interval], n_a: int, n_b: int, rates: np.ndarray) -> np.ndarray:
    """Exact coverage of the difference at every pair of rates, by enumeration of both counts."""
    cells = [[method(a, n_a, b, n_b) for b in range(n_b + 1)] for a in range(n_a + 1)]
    low = np.array([[cell.low for cell in row] for row in cells])
    high = np.array([[cell.high for cell in row] for row in cells])
    result = []
    for p in rates:
        for q in rates:
            weight = np.outer(
                stats.binom.pmf(np.arange(n_a + 1), n_a, p), stats.binom.pmf(np.arange(n_b + 1), n_b, q)
            )
            result.append((weight * ((low <= p - q) & (p - q <= high))).sum())
    return np.array(result)


@pytest.mark.parametrize(("n_a", "n_b"), [(10, 10), (30, 12), (40, 40)])
def test_newcombe_covers_nominally_on_average_and_bonferroni_always(n_a: int, n_b: int) -> None:
    rates = np.linspace(0.015, 0.985, 25)
    hybrid = difference_coverage(newcombe_difference, n_a, n_b, rates)
    # Newcombe 1998, table II: mean 0.960 over sizes of 5 to 50, dips to 0.867 at worst.
    assert 0.945 < hybrid.mean() < 0.975
    assert hybrid.min() > 0.867
    assert difference_coverage(bonferroni_difference, n_a, n_b, rates).min() >= 0.95


def test_newcombe_reproduces_the_published_examples() -> None:
    # Newcombe 1998, table II, examples (a), (c), (g) and (h), method 10.
    published = {
        (56, 70, 48, 80): (0.0524, 0.3339),
        (6, 7, 2, 7): (0.0582, 0.8062),
        (0, 10, 0, 20): (-0.1611, 0.2775),
        (10, 10, 0, 10): (0.6075, 1.0),
    }
    for counts, (low, high) in published.items():
        interval = newcombe_difference(*counts)
        assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-5)


def test_bonferroni_covers_dependent_samples() -> None:
    # Two classifiers on the same examples that are never wrong together: the strongest negative dependence.
    n, p = 25, 0.3
    covered = 0.0
    for a in range(n + 1):
        for b in range(n + 1 - a):
            weight = stats.multinomial.pmf([a, b, n - a - b], n, [p, p, 1 - 2 * p])
            covered += weight * (0.0 in bonferroni_difference(a, n, b, n, 0.9))
    assert covered >= 0.9


def test_difference_changes_sign_when_the_samples_swap() -> None:
    for method in (newcombe_difference, bonferroni_difference):
        one, other = method(3, 20, 9, 15), method(9, 15, 3, 20)
        assert (one.low, one.high) == pytest.approx((-other.high, -other.low), abs=1e-15)


@pytest.mark.parametrize("counts", [(-1, 5), (6, 5), (0, 0), (0.5, 3)])
def test_impossible_counts_are_refused(counts: tuple[int, int]) -> None:
    for method in (clopper_pearson, wilson):
        with pytest.raises(SettingError, match="whole numbers"):
            method(*counts)


def test_bad_settings_are_refused() -> None:
    for confidence in (0.0, 1.0, 95, math.nan):
        with pytest.raises(SettingError, match="strictly between 0 and 1"):
            clopper_pearson(1, 5, confidence)
    with pytest.raises(SettingError, match="bounded support"):
        hoeffding(1.5, 10)
    with pytest.raises(SettingError, match="bounded support"):
        hoeffding(math.nan, 10)
    with pytest.raises(SettingError, match="n must be a whole number of at least 1"):
        hoeffding(0.5, 0)
    with pytest.raises(SettingError, match="low <= high"):
        Interval(math.nan, 1.0, 0.95, "")
    with pytest.raises(SettingError, match="low <= high"):
        Interval(2.0, 1.0, 0.95, "")
