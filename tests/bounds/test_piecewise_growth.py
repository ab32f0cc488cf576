"""The counting bound against classes whose growth function is known exactly."""

from __future__ import annotations

import math

import pytest

from torchstone.bounds.growth import cover_count, sign_change_growth
from torchstone.bounds.piecewise_growth import (
    LayerSize,
    piecewise_linear_log_growth,
    piecewise_linear_vc_bound,
)
from torchstone.errors import SettingError


def one_input_network(units: int) -> list[LayerSize]:
    return [LayerSize(2 * units, units), LayerSize(units + 1, 1)]


def warren(polynomials: int, weights: int, degree: int) -> float:
    return math.log(2) + weights * math.log(2 * math.e * polynomials * degree / weights)


def test_formula_of_two_layers() -> None:
    layers, n = one_input_network(4), 500
    expected = warren(500 * 4, 8, 1) + warren(500, 13, 2)
    assert piecewise_linear_log_growth(layers, n) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dimensions", [1, 3, 10])
def test_a_single_layer_is_above_covers_exact_count(dimensions: int) -> None:
    layers = [LayerSize(dimensions, 1)]
    for n in (1, 5, 20, 100, 1000, 10**5):
        assert piecewise_linear_log_growth(layers, n) >= math.log(cover_count(n, dimensions)) - 1e-9
    assert piecewise_linear_vc_bound(layers) >= dimensions
    # Of the right order, too: not more than a constant above it.
    assert piecewise_linear_vc_bound(layers) <= 8 * dimensions


@pytest.mark.parametrize("units", [3, 5, 12])
def test_one_input_relu_networks_have_at_least_all_patterns_of_few_sign_changes(units: int) -> None:
    """From three units on all patterns of up to N + 1 sign changes are attained, so the bound may not be below."""
    layers = one_input_network(units)
    for n in (1, 10, 100, 10**4, 10**6):
        attained = math.log(sign_change_growth(n, units + 1))
        assert piecewise_linear_log_growth(layers, n) >= attained - 1e-9
    assert piecewise_linear_vc_bound(layers) >= units + 2


def test_never_more_than_all_labellings() -> None:
    wide = [LayerSize(10**6, 10**4), LayerSize(10**4, 9)]
    assert piecewise_linear_log_growth(wide, 1000) == pytest.approx(1000 * math.log(2))


def test_the_vc_bound_is_where_shattering_ends() -> None:
    layers = [LayerSize(12, 4), LayerSize(20, 4), LayerSize(5, 1)]
    found = piecewise_linear_vc_bound(layers)
    shatters = [n for n in range(1, 4 * found) if piecewise_linear_log_growth(layers, n) >= n * math.log(2)]
    assert shatters == list(range(1, found + 1))


def test_the_vc_bound_is_of_order_w_l_log_w() -> None:
    for depth in (2, 8, 32):
        layers = [LayerSize(100, 10)] * depth
        weights = 100 * depth
        ratio = piecewise_linear_vc_bound([*layers, LayerSize(11, 1)]) / (weights * depth * math.log(weights))
        assert 0.5 < ratio < 3


def test_mistakes() -> None:
    with pytest.raises(SettingError, match="at least one layer"):
        piecewise_linear_log_growth([], 10)
    with pytest.raises(SettingError, match="units"):
        LayerSize(3, 0)
    with pytest.raises(SettingError, match="n must"):
        piecewise_linear_log_growth([LayerSize(1, 1)], 0)
