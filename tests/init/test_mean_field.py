"""Signal propagation against closed forms, quadrature by SciPy, and wide random networks."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from torchstone.errors import NumericalError, SettingError
from torchstone.init.mean_field import (
    fixed_point,
    gain,
    gradient_factor,
    second_moment,
    slope_second_moment,
    variance_map,
)

identity: Callable[[Tensor], Tensor] = lambda z: z
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": identity,
    "relu": torch.relu,
    "tanh": torch.tanh,
    "gelu": torch.nn.functional.gelu,
    "erf": torch.erf,
    "silu": torch.nn.functional.silu,
}


@pytest.mark.parametrize("variance", [1e-4, 0.3, 1.0, 7.0, 400.0])
def test_closed_forms(variance: float) -> None:
    assert second_moment(identity, variance) == pytest.approx(variance, rel=1e-12)
    assert second_moment(torch.relu, variance) == pytest.approx(variance / 2, rel=1e-12)
    assert slope_second_moment(torch.relu, variance) == pytest.approx(0.5, rel=1e-12)
    # Williams 1997: E erf(z)^2 = 2/pi asin(2q/(1+2q)); E erf'(z)^2 = 4/pi / sqrt(1 + 4q).
    assert second_moment(torch.erf, variance) == pytest.approx(
        2 / math.pi * math.asin(2 * variance / (1 + 2 * variance)), rel=1e-6
    )
    assert slope_second_moment(torch.erf, variance) == pytest.approx(
        4 / math.pi / math.sqrt(1 + 4 * variance), rel=1e-6
    )


@pytest.mark.parametrize("name", ["tanh", "gelu", "silu"])
def test_scipys_quadrature_agrees(name: str) -> None:
    from scipy.integrate import quad

    activation = ACTIVATIONS[name]
    for variance in (0.2, 1.0, 3.0):
        density = lambda z, variance=variance: (
            math.exp(-z * z / 2 / variance) / math.sqrt(2 * math.pi * variance)
        )
        value = lambda z, density=density: (
            float(activation(torch.tensor(z, dtype=torch.float64))) ** 2 * density(z)
        )
        expected = quad(value, -40, 40, epsabs=1e-12, points=[0.0], limit=200)[0]
        assert second_moment(activation, variance) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", ["relu", "tanh", "erf", "gelu"])
def test_wide_networks_follow_the_recursion_for_twenty_layers(name: str) -> None:
    """Width 4096, 20 layers: the variance of each layer, averaged over 256 networks, within 3% of the prediction.

    For one input, W phi + b with W_ij ~ N(0, sigma_w^2/4096) and b ~ N(0, sigma_b^2) has independent entries of variance
    sigma_w^2 mean(phi^2) + sigma_b^2, exactly; drawing those in place of the weights is the same law.
    """
    activation, width, networks = ACTIVATIONS[name], 4096, 256
    weight_variance, bias_variance = 1.8, 0.05
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(networks, width, generator=generator)
    predicted = 1.0
    for _ in range(20):
        variance = weight_variance * activation(z).square().mean(1, keepdim=True) + bias_variance
        z = variance.sqrt() * torch.randn(networks, width, generator=generator)
        predicted = variance_map(activation, predicted, weight_variance, bias_variance)
        assert float(z.square().mean()) == pytest.approx(predicted, rel=0.03)


def test_the_recursion_against_real_weights() -> None:
    """One layer of real Gaussian weights, 4096 to 4096, within three standard errors."""
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(4096, generator=generator)
    weights = torch.randn(4096, 4096, generator=generator) * math.sqrt(2.0 / 4096)
    for name in ("relu", "tanh", "erf", "gelu"):
        phi = ACTIVATIONS[name](z)
        expected = variance_map(ACTIVATIONS[name], 1.0, 2.0)
        error = expected * math.sqrt(2 / 4096) + float(2 * phi.square().std()) / 64
        assert abs(float((weights @ phi).square().mean()) - expected) < 3 * error


def test_gains_keep_the_variance() -> None:
    assert gain(torch.relu) == pytest.approx(math.sqrt(2))
    assert gain(identity) == pytest.approx(1)
    for name, activation in ACTIVATIONS.items():
        sigma = gain(activation)
        assert variance_map(activation, 1.0, sigma**2) == pytest.approx(1.0), name
    with pytest.raises(NumericalError, match="must not vanish"):
        gain(torch.zeros_like)


def test_fixed_points() -> None:
    q = fixed_point(torch.tanh, 2.0, 0.1)
    assert variance_map(torch.tanh, q, 2.0, 0.1) == pytest.approx(q)
    assert fixed_point(torch.relu, 3.0) == math.inf
    assert fixed_point(torch.relu, 1.0) == 0.0
    assert gradient_factor(torch.tanh, fixed_point(torch.tanh, 0.8) or 1e-9, 0.8) < 1  # ordered phase


def test_bad_variances() -> None:
    for wrong in (0.0, -1.0, float("nan"), math.inf):
        with pytest.raises(SettingError, match="positive and finite"):
            second_moment(torch.tanh, wrong)
