"""Kernels of infinitely wide networks: closed forms, Monte Carlo, and the empirical kernel of wide networks."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torchstone.errors import NumericalError, SettingError
from torchstone.kernels.arccosine import arc_cosine, two_layer_relu_tangent
from torchstone.kernels.tangent import Activation, dense_kernels
from torchstone.operators import ntk

FUNCTIONS: dict[Activation, Any] = {"relu": torch.relu, "erf": torch.erf}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


class Wide(nn.Module):
    """A dense network in the tangent parameterisation (`scaled`), or the standard one."""

    def __init__(
        self, sizes: list[int], activation: Activation, weight: float, bias: float, scaled: bool, seed: int
    ) -> None:
        super().__init__()
        self.activation, self.weight, self.bias, self.scaled = FUNCTIONS[activation], weight, bias, scaled
        chance = generator(seed)
        self.layers = nn.ModuleList()
        for before, after in itertools.pairwise(sizes):
            layer = nn.Linear(before, after, device="meta").to_empty(device="cpu").double()
            for parameter, variance in ((layer.weight, weight / before), (layer.bias, bias)):
                drawn = torch.randn(parameter.shape, generator=chance, dtype=torch.float64)
                parameter.data = drawn if scaled else drawn * variance**0.5
            self.layers.append(layer)

    def forward(self, x: Tensor) -> Tensor:
        for position, layer in enumerate(self.layers):
            assert isinstance(layer, nn.Linear)
            x = x if position == 0 else self.activation(x)
            if self.scaled:
                x = (self.weight / x.shape[1]) ** 0.5 * (x @ layer.weight.T) + self.bias**0.5 * layer.bias
            else:
                x = layer(x)
        return x


def distance(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("degree", [0, 1, 2])
def test_arc_cosine_kernels_are_expectations(degree: int) -> None:
    w = randn(400_000, 2, seed=degree)
    for angle in (0.3, 1.5, 2.8):
        z, other = w[:, 0], math.cos(angle) * w[:, 0] + math.sin(angle) * w[:, 1]
        power = lambda t: (t > 0).double() if degree == 0 else t.clamp(min=0) ** degree
        draws = 2 * power(z) * power(other)
        found = float(arc_cosine(torch.tensor(math.cos(angle), dtype=torch.float64), degree))
        assert abs(found - float(draws.mean())) < 3 * float(draws.std()) / len(draws) ** 0.5


def test_arc_cosine_kernels_at_the_ends() -> None:
    ends = torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(arc_cosine(ends, 0), torch.tensor([1.0, 0.0, 0.5]).double())
    torch.testing.assert_close(arc_cosine(ends, 1), torch.tensor([1.0, 0.0, 1 / math.pi]).double())
    torch.testing.assert_close(
        arc_cosine(ends, 2), torch.tensor([3.0, 0.0, 0.5]).double(), atol=1e-12, rtol=1e-6
    )


@pytest.mark.parametrize("activation", FUNCTIONS)
@pytest.mark.parametrize("bias", [0.0, 0.3])
def test_recursions_are_gaussian_expectations(activation: Activation, bias: float) -> None:
    # One layer against tensor-product quadrature; ReLU's kink limits it to three digits, erf is exact.
    x = randn(4, 3)
    start, made = (
        dense_kernels(x, depth=d, activation=activation, weight_variance=1.7, bias_variance=bias)
        for d in (0, 1)
    )
    nodes, weights = np.polynomial.hermite_e.hermegauss(150)
    u, w = torch.from_numpy(nodes), torch.from_numpy(weights / weights.sum())
    phi = FUNCTIONS[activation]
    slope = lambda z: (z > 0).double() if activation == "relu" else 2 / math.pi**0.5 * torch.exp(-z * z)
    for i in range(4):
        for j in range(4):
            a, b, c = (float(start.nngp[k, l]) for k, l in ((i, i), (i, j), (j, j)))
            z = a**0.5 * u[:, None]
            other = b / a**0.5 * u[:, None] + max(0.0, c - b * b / a) ** 0.5 * u[None]
            expect = lambda f, z=z, other=other: float((w[:, None] * w[None] * f(z) * f(other)).sum())
            tolerance = (2e-2 if activation == "relu" else 1e-6) * float(made.ntk.max())
            covariance = 1.7 * expect(phi) + bias
            assert float(made.nngp[i, j]) == pytest.approx(covariance, abs=tolerance)
            tangent = covariance + 1.7 * expect(slope) * float(start.ntk[i, j])
            assert float(made.ntk[i, j]) == pytest.approx(tangent, abs=tolerance)


def test_one_hidden_relu_layer_has_the_closed_form() -> None:
    x = nn.functional.normalize(randn(8, 5), dim=1)
    cosine = x @ x.T
    cosine.diagonal().fill_(1.0)
    expected = two_layer_relu_tangent(cosine)
    # K_1 = u with sigma_w^2 = d in the first layer; 2 T = k1 and 2 T' = k0 in the second.
    deep = dense_kernels(x * (5 / 2) ** 0.5, depth=1, weight_variance=2.0)
    torch.testing.assert_close(deep.ntk, expected, rtol=1e-7, atol=1e-7)


def test_the_closed_form_by_monte_carlo() -> None:
    x = nn.functional.normalize(randn(5, 3), dim=1)
    expected = two_layer_relu_tangent(x @ x.T)
    w = randn(200_000, 3, seed=4)
    a = randn(200_000, seed=5)
    z = x @ w.T
    for i in range(5):
        for j in range(i):
            both = (z[i] > 0) & (z[j] > 0)
            draws = 2 * a.square() * both * float(x[i] @ x[j]) + 2 * z[i].clamp(min=0) * z[j].clamp(min=0)
            error = float(draws.std()) / len(draws) ** 0.5
            assert abs(float(draws.mean()) - float(expected[i, j])) < 3 * error


def spread_of_one_hidden_layer(outputs: int) -> float:
    """Width times the relative variance of Theta(x, x) of random ReLU networks, averaged over outputs.

    Theta(x, x) = |x|^2 A / n + B / n with A = sum_j 2 s_j mean_c a_cj^2 and B = sum_j 2 relu(z_j)^2, s_j a fair coin:
    E s = 1/2 and E (mean a^2)^2 = 1 + 2 / C, so A's terms have mean 1 and second moment 2 (1 + 2 / C); B's, for |x| = 1,
    mean 1 and second moment 6; A B has E[2 s mean a^2 2 z^2 s] = 2. Theta's terms have mean 2.
    """
    return (2 * (1 + 2 / outputs) + 6 + 2 * 2 - 4) / 4


@pytest.mark.parametrize("outputs", [1, 10])
def test_fluctuations_of_the_diagonal_are_as_derived(outputs: int) -> None:
    # So the error falls with the number of outputs that are averaged: at width 4096 one ReLU output of one hidden layer
    # has a standard deviation of sqrt(3 / 4096) = 2.7% and is not always within 3%, ten have 2.3%.
    x, width = torch.ones(1, 1, dtype=torch.float64), 256
    draws = []
    for seed in range(60):
        model = Wide([1, width, outputs], "relu", 2.0, 0.0, True, seed)
        # Inputs of one dimension are mirrored: every unit sees +x or -x, with a Gaussian length.
        draws.append(float(ntk(model, x / 2**0.5, outputs="trace").values) / outputs)
    found = torch.tensor(draws, dtype=torch.float64)
    assert float(found.mean()) == pytest.approx(2.0, rel=0.02)
    assert float(found.var()) / 4 * width == pytest.approx(
        spread_of_one_hidden_layer(outputs), rel=0.35
    )  # 3 standard errors


@pytest.mark.parametrize(
    ("activation", "depth", "width"),
    [("relu", 1, 4096), ("relu", 2, 4096), ("erf", 2, 4096)],
)
def test_wide_networks_come_near(activation: Activation, depth: int, width: int) -> None:
    x = nn.functional.normalize(randn(12, 8), dim=1) * 8**0.5
    limit = dense_kernels(x, depth=depth, activation=activation, weight_variance=1.8, bias_variance=0.1)
    model = Wide([8, *[width] * depth, 10], activation, 1.8, 0.1, scaled=True, seed=3).float()
    found = ntk(model, x.float(), outputs="trace").values.double() / 10
    assert distance(found, limit.ntk) < 0.03


def test_the_standard_parameterisation() -> None:
    x = randn(8, 6)
    limit = dense_kernels(x, depth=2, weight_variance=2.0, bias_variance=0.1, widths=[2000, 1500])
    model = Wide([6, 2000, 1500, 1], "relu", 2.0, 0.1, scaled=False, seed=2)
    assert distance(ntk(model, x).values[:, :, 0, 0], limit.ntk) < 0.06
    # Learning rates sigma_w^2 / n for weights and sigma_b^2 for biases turn one kernel into the other.
    shares = ntk(model, x, per_layer=True).by_parameter
    sizes = {"layers.0": 6, "layers.1": 2000, "layers.2": 1500}
    total = torch.zeros(8, 8, dtype=torch.float64)
    for name, share in shares.items():
        layer, kind = name.rsplit(".", 1)
        total += share[:, :, 0, 0] * (2.0 / sizes[layer] if kind == "weight" else 0.1)
    tangent = dense_kernels(x, depth=2, weight_variance=2.0, bias_variance=0.1)
    assert distance(total, tangent.ntk) < 0.06


def test_outputs_of_random_networks_have_the_nngp_covariance() -> None:
    x = randn(3, 4)
    limit = dense_kernels(x, depth=1, weight_variance=1.5, bias_variance=0.2).nngp
    draws = torch.stack([Wide([4, 300, 40], "relu", 1.5, 0.2, True, seed)(x).detach() for seed in range(60)])
    samples = draws.movedim(1, 2).reshape(-1, 3)  # every output is a draw; nearly independent
    products = samples[:, :, None] * samples[:, None, :]
    error = products.reshape(60, 40, 3, 3).mean(1).std(0) / 60**0.5
    assert bool(((products.mean(0) - limit).abs() < 4 * error).all())


@pytest.mark.parametrize("activation", FUNCTIONS)
@pytest.mark.parametrize("depth", [0, 1, 5, 30])
def test_kernels_are_positive_semidefinite_and_symmetric(activation: Activation, depth: int) -> None:
    x = randn(40, 3)
    x = torch.cat([x, x[:5], torch.zeros(1, 3, dtype=torch.float64), 1e3 * x[:2], x[:2] + 1e-9])
    made = dense_kernels(x, depth=depth, activation=activation, bias_variance=0.05)
    for kernel in (made.nngp, made.ntk):
        assert bool(kernel.isfinite().all())
        assert float((kernel - kernel.T).abs().max()) <= 1e-12 * float(kernel.abs().max())
        values = torch.linalg.eigvalsh(kernel)
        assert float(values[0]) >= -1e-8 * float(values[-1])


def test_cross_kernels_are_blocks_of_the_joint_one() -> None:
    x, other = randn(5, 2, 3), randn(4, 2, 3, seed=1)
    joint = dense_kernels(torch.cat([x, other]), depth=3, bias_variance=0.1)
    cross = dense_kernels(x, other, depth=3, bias_variance=0.1)
    torch.testing.assert_close(cross.ntk, joint.ntk[:5, 5:], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(cross.nngp, joint.nngp[:5, 5:], rtol=1e-12, atol=1e-12)


def test_relu_kernels_are_homogeneous_and_zero_at_zero() -> None:
    x = randn(4, 3)
    one, scaled = dense_kernels(x, depth=2), dense_kernels(5 * x, depth=2)
    torch.testing.assert_close(scaled.ntk, 25 * one.ntk)
    assert float(dense_kernels(torch.zeros(1, 3), depth=2).ntk) == 0


def test_mistakes_are_named() -> None:
    x, wrong = torch.zeros(2, 3), "tanh"
    bad: Any = wrong
    with pytest.raises(SettingError, match="degree must be 0, 1 or 2"):
        arc_cosine(torch.zeros(1), 3)
    with pytest.raises(NumericalError, match="Cosines must lie"):
        arc_cosine(torch.tensor([1.5]), 0)
    with pytest.raises(SettingError, match="activation must be"):
        dense_kernels(x, depth=1, activation=bad)
    with pytest.raises(SettingError, match="depth must be a whole number"):
        dense_kernels(x, depth=-1)
    with pytest.raises(SettingError, match="bias_variance must be finite"):
        dense_kernels(x, depth=1, bias_variance=-1.0)
    with pytest.raises(SettingError, match="one positive size for each of the 2"):
        dense_kernels(x, depth=2, widths=[3])
    with pytest.raises(SettingError, match="inputs"):
        dense_kernels(x, torch.zeros(2, 4), depth=1)
    with pytest.raises(NumericalError, match="Inputs must be finite"):
        dense_kernels(x + math.nan, depth=1)
