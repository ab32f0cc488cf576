"""The edge of chaos and the correlation map, against closed forms and wide networks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from torchstone.errors import NumericalError, SettingError
from torchstone.init import correlation_map, critical_point, criticality, fixed_point


def test_the_edge_of_relu_is_he_initialisation_and_of_tanh_one() -> None:
    relu, tanh = critical_point(torch.relu), critical_point(torch.tanh)
    assert relu.weight_variance == pytest.approx(2, rel=1e-9)
    assert tanh.weight_variance == pytest.approx(1, rel=1e-6)
    assert (tanh.variance, relu.chi, relu.depth_scale) == (0.0, 1.0, math.inf)
    assert critical_point(nn.functional.leaky_relu).weight_variance == pytest.approx(2 / (1 + 1e-4), rel=1e-9)


@pytest.mark.parametrize("bias_variance", [0.01, 0.05, 0.3])
def test_the_edge_of_tanh_with_biases_lies_on_chi_one(bias_variance: float) -> None:
    found = critical_point(torch.tanh, bias_variance)
    again = criticality(torch.tanh, found.weight_variance, bias_variance)
    assert again.chi == pytest.approx(1, abs=1e-6)
    assert found.weight_variance > 1
    assert found.variance == pytest.approx(fixed_point(torch.tanh, found.weight_variance, bias_variance))
    below = criticality(torch.tanh, 0.9 * found.weight_variance, bias_variance)
    assert below.chi < 1
    assert below.depth_scale == pytest.approx(-1 / math.log(below.chi))
    assert criticality(torch.tanh, 1.1 * found.weight_variance, bias_variance).chi > 1


def test_activations_without_an_edge_are_refused() -> None:
    with pytest.raises(NumericalError, match="needs chi = 1 for some weight variance"):
        critical_point(nn.functional.gelu)
    with pytest.raises(NumericalError, match="needs chi = 1"):
        critical_point(torch.cos, 0.0, most=0.5)
    with pytest.raises(SettingError, match="bias_variance must be 0 or positive"):
        critical_point(torch.tanh, -1.0)


@pytest.mark.parametrize("c", [-1.0, -0.5, 0.0, 0.3, 0.9, 0.999, 1.0])
def test_the_correlation_map_of_relu_is_the_arc_cosine_kernel(c: float) -> None:
    expected = (math.sqrt(1 - c * c) + c * (math.pi - math.acos(c))) / math.pi
    for variance in (0.2, 1.0, 5.0):
        assert correlation_map(torch.relu, c, variance, 2.0) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("c", [-0.9, 0.0, 0.4, 0.95])
def test_the_correlation_map_of_erf_has_a_closed_form(c: float) -> None:
    q, sigma, bias = 0.8, 1.7, 0.1
    value = 2 / math.pi * math.asin(2 * q * c / (1 + 2 * q))  # Williams 1997
    found = correlation_map(torch.erf, c, q, sigma, bias)
    assert found == pytest.approx((sigma * value + bias) / q, abs=1e-12)


def test_the_slope_at_one_is_chi() -> None:
    point = criticality(torch.tanh, 1.8, 0.2)
    h = 1e-4
    rise = correlation_map(torch.tanh, 1.0, point.variance, 1.8, 0.2) - correlation_map(
        torch.tanh, 1 - h, point.variance, 1.8, 0.2
    )
    assert rise / h == pytest.approx(point.chi, rel=1e-3)
    assert correlation_map(torch.tanh, 1.0, point.variance, 1.8, 0.2) == pytest.approx(1, abs=1e-10)
    with pytest.raises(SettingError, match="between -1 and 1"):
        correlation_map(torch.tanh, 1.1, 1.0, 1.0)


def test_wide_networks_follow_the_correlation_map() -> None:
    """Three layers of width 1000, averaged over 64 pairs of inputs.

    A pair's correlation has the error (1 - c^2) / 1000^(1/2) a layer, at most 0.04 in all, and the mean of 64 has 0.005.
    """
    width, pairs, sigma, bias, c = 1000, 64, 1.5, 0.1, 0.5
    g = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)
    q = fixed_point(torch.tanh, sigma, bias)
    u, v = draw(width, pairs), draw(width, pairs)
    a, b = q**0.5 * u, q**0.5 * (c * u + math.sqrt(1 - c * c) * v)
    for _ in range(3):
        weight, shift = draw(width, width) * (sigma / width) ** 0.5, draw(width, 1) * bias**0.5
        a, b = weight @ torch.tanh(a) + shift, weight @ torch.tanh(b) + shift
        c = correlation_map(torch.tanh, c, q, sigma, bias)
    found = torch.cosine_similarity(a, b, dim=0).mean()
    assert float(found) == pytest.approx(c, abs=0.02)
