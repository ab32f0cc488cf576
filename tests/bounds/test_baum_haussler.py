"""Baum and Haussler's calculator: the formula, what it promises, and exact counts that its growth function covers."""

from __future__ import annotations

import math

import pytest

from torchstone.bounds.baum_haussler import (
    baum_haussler_examples,
    baum_haussler_failure,
    threshold_log_growth,
    threshold_network_log_growth,
    threshold_sample_size,
)
from torchstone.bounds.growth import cover_count
from torchstone.errors import SettingError


@pytest.mark.parametrize(("weights", "units", "error"), [(1, 1, 0.125), (61, 11, 0.1), (10**6, 999, 1e-3)])
def test_the_formula(weights: int, units: int, error: float) -> None:
    expected = (32 * weights / error) * math.log(32 * units / error)
    assert baum_haussler_examples(weights, units, error) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("weights", [1, 7, 300])
@pytest.mark.parametrize("error", [0.125, 0.01])
def test_its_failure_probability_is_the_one_stated(weights: int, error: float) -> None:
    for units in {1, (weights + 1) // 2, weights}:
        m = baum_haussler_examples(weights, units, error)
        failure = baum_haussler_failure(weights, units, error, m)
        assert failure <= 8 * math.exp(-1.5 * weights)
        level = math.log(32 * units / error)
        exact = 8 * math.exp(-weights * (level - math.log(2 * math.e) - math.log(level)))
        assert failure == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("dimensions", [2, 5, 9])
def test_growth_covers_the_exact_count_of_one_unit(dimensions: int) -> None:
    for m in (dimensions, 3 * dimensions, 50 * dimensions):
        exact = math.log(cover_count(m, dimensions))
        # Sauer's sum for a unit of VC dimension d is above the count of hyperplanes through the origin in d dimensions.
        assert exact <= threshold_network_log_growth([dimensions], m) + 1e-12
        assert threshold_network_log_growth([dimensions], m) <= threshold_log_growth(dimensions, 1, m) + 1e-12


def test_unit_by_unit_is_tighter_than_the_closed_form() -> None:
    fan_ins, m = [6, 6, 6, 4], 2000
    assert threshold_network_log_growth(fan_ins, m) < threshold_log_growth(22, 4, m)
    assert threshold_log_growth(22, 4, m) == pytest.approx(22 * math.log(4 * math.e * m / 22), rel=1e-12)


@pytest.mark.parametrize(("weights", "units", "error", "delta"), [(1, 1, 1.0, 0.5), (22, 4, 0.1, 1e-6)])
def test_the_sample_size_is_the_smallest(weights: int, units: int, error: float, delta: float) -> None:
    m = threshold_sample_size(weights, units, error, delta)
    assert baum_haussler_failure(weights, units, error, m) <= delta
    assert baum_haussler_failure(weights, units, error, m - 1) > delta
    if error <= 0.125 and delta >= 8 * math.exp(-1.5 * weights):
        assert m <= baum_haussler_examples(weights, units, error)


def test_a_failure_probability_beyond_float64_is_infinite() -> None:
    assert baum_haussler_failure(10**4, 100, 0.1, 10**4) == math.inf


def test_mistakes() -> None:
    with pytest.raises(SettingError, match="1/8"):
        baum_haussler_examples(10, 2, 0.2)
    with pytest.raises(SettingError, match="at least one weight"):
        baum_haussler_examples(1, 2, 0.1)
    with pytest.raises(SettingError, match="as many examples as weights"):
        threshold_log_growth(10, 2, 9)
    with pytest.raises(SettingError, match="one threshold unit"):
        threshold_network_log_growth([], 9)
    with pytest.raises(SettingError, match="delta"):
        threshold_sample_size(10, 2, 0.1, 0.0)
    with pytest.raises(SettingError, match=r"error must be at most 1; got 1\.5"):
        threshold_sample_size(10, 2, 1.5)
    assert threshold_sample_size(10, 2, 1.0) > 0
