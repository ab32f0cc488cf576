"""The bound's constants against a numerical Dudley integral, its grid, and networks on real digits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from sklearn.datasets import load_digits
from torch import Tensor

from torchstone.bounds.dense import DenseLayer
from torchstone.bounds.margin import margins
from torchstone.bounds.spectral import SpectralComplexity, spectral_complexity
from torchstone.bounds.spectral_margin import (
    rademacher_term,
    ramp_loss,
    spectral_margin_bound,
)
from torchstone.errors import NumericalError, SettingError


def complexity(log_value: float = 0.0, width: int = 2) -> SpectralComplexity:
    """One layer of operator norm 1 with the given complexity."""
    return SpectralComplexity(log_value, (1.0,), (math.exp(log_value),), (1.0,), width, augmented=False)


def test_ramp_loss_lies_between_the_error_and_the_margin_error() -> None:
    values = torch.linspace(-2, 2, 401, dtype=torch.float64)
    loss = ramp_loss(values, 1.5)
    assert bool((loss >= (values <= 0).double()).all())
    assert bool((loss <= (values <= 1.5).double()).all())
    assert float((loss.diff() / values.diff()).abs().max()) == pytest.approx(1 / 1.5, rel=1e-9)
    assert ramp_loss(torch.tensor([math.inf, -math.inf]), 1.0).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("k", [1e-3, 0.5, 20.0, 300.0])
def test_complexity_term_is_the_least_dudley_integral(k: float) -> None:
    n = 1000

    def dudley(alpha: float) -> float:
        # In the logarithm of epsilon, where the integrand is tame.
        root = lambda log_e: math.sqrt(k**2 * math.exp(-2 * log_e)) * math.exp(log_e)
        entropy = quad(root, math.log(alpha), 0.5 * math.log(n))[0]
        return 4 * alpha / math.sqrt(n) + 12 / n * entropy

    least = min(dudley(alpha) for alpha in np.geomspace(1e-8, math.sqrt(n), 20_001))
    assert math.exp(rademacher_term(math.log(k), n)) == pytest.approx(2 * least, rel=1e-5)


def test_complexity_term_goes_on_where_it_is_vacuous() -> None:
    n = 1000
    edge = math.log(n / 3)
    assert math.exp(rademacher_term(edge, n)) == pytest.approx(8.0, rel=1e-12)
    ks = np.linspace(-20, 60, 2001)
    terms = [rademacher_term(k, n) for k in ks]
    assert bool((np.diff(terms) > 0).all())
    assert rademacher_term(edge + 50, n) == pytest.approx(math.log(8) + 50, rel=1e-12)
    assert rademacher_term(-math.inf, n) == -math.inf


def test_bound_dominates_the_rademacher_complexity_of_a_linear_class() -> None:
    # Scalar linear maps of norm at most b through the ramp: the supremum is found on a fine grid of weights.
    generator = torch.Generator().manual_seed(1)
    n, b, theta = 40, 2.0, 0.5
    x = torch.randn(n, generator=generator, dtype=torch.float64)
    y = torch.randint(2, (n,), generator=generator) * 2 - 1
    weights = torch.linspace(-b, b, 801, dtype=torch.float64)
    # Two logits (w x, 0): the margin is +- w x.
    losses = ramp_loss((weights[:, None] * x * y).flatten(), theta).view(801, n)
    signs = torch.randint(2, (2000, n), generator=generator).double() * 2 - 1
    truth = float((signs @ losses.T / n).amax(dim=1).mean())
    log_k = math.log(2 * float(x.norm()) * b / theta * math.sqrt(math.log(2 * 2**2)))
    assert 0 < 2 * truth <= math.exp(rademacher_term(log_k, n))


def test_bound_is_its_formula_on_the_grid() -> None:
    n, delta, theta, norm = 10**6, 0.05, 1.0, 50.0
    values = torch.linspace(-1, 9, n, dtype=torch.float64)
    found = spectral_margin_bound(complexity(math.log(3.0), width=10), values, norm, theta, delta)
    k_moves = math.ceil(math.log(3) / 0.05)
    log_k = math.log(2 * norm) + k_moves * 0.05 + 0.5 * math.log(math.log(200))
    cells = [2 * (k + 1) * (k + 2) for k in (0, k_moves, 0)]
    assert found.theta == 1.0
    assert found.empirical == pytest.approx(float(ramp_loss(values, 1.0).mean()), rel=1e-12)
    k = math.exp(log_k)
    assert found.complexity_term == pytest.approx(24 * k / n * (1 + math.log(n / (3 * k))), rel=1e-9)
    expected = 3 * math.sqrt((math.log(2 / delta) + math.log(math.prod(cells))) / (2 * n))
    assert found.deviation == pytest.approx(expected, rel=1e-12)
    assert found.value == found.empirical + found.complexity_term + found.deviation
    # Not vacuous here, and above the empirical error.
    assert float((values <= 0).double().mean()) < found.value < 1


def test_the_grid_rounds_outwards_by_little() -> None:
    layers = [
        DenseLayer(torch.randn(9, 9, generator=torch.Generator().manual_seed(i)).double()) for i in range(6)
    ]
    exact, values = spectral_complexity(layers), torch.ones(500)
    bound = spectral_margin_bound(exact, values, 3.0, 1.0)
    log_k = math.log(2 * 3.0) + exact.log_value + 0.5 * math.log(math.log(2 * 81))
    assert 0 <= bound.log_complexity_term - rademacher_term(log_k, 500) < 0.15


def test_it_holds_for_a_share_1_minus_delta_of_samples_where_it_is_not_vacuous() -> None:
    """x of +-1, random labels, logits (x, -x) or (-x, x) by empirical risk: every empirical error is below the true one."""
    generator, n, delta, failures = torch.Generator().manual_seed(3), 10**6, 0.5, 0
    layers = spectral_complexity([DenseLayer(torch.tensor([[1.0], [-1.0]], dtype=torch.float64))])
    for _ in range(20):
        agree = int(torch.binomial(torch.tensor(float(n)), torch.tensor(0.5), generator=generator))
        values = torch.full((n,), 2.0)
        values[: min(agree, n - agree)] = -2.0
        bound = spectral_margin_bound(layers, values, math.sqrt(n), theta=2.0, delta=delta)
        assert bound.empirical < 0.5
        failures += bound.value < 0.5
        assert bound.value < 1
    assert failures <= delta * 20


def test_without_theta_the_best_margin_is_taken() -> None:
    generator = torch.Generator().manual_seed(2)
    values = 3 + torch.randn(10_000, generator=generator, dtype=torch.float64)
    best = spectral_margin_bound(complexity(-3.0), values, 20.0)
    for theta in values[values > 0].quantile(torch.linspace(0, 1, 32).double()).tolist():
        assert best.value <= spectral_margin_bound(complexity(-3.0), values, 20.0, theta).value
    assert spectral_margin_bound(complexity(), -values.abs(), 1.0).empirical == 1.0


def test_a_vacuous_bound_is_still_given() -> None:
    for bias in (None, torch.ones(2, dtype=torch.float64)):
        layers = [DenseLayer(1e100 * torch.eye(2, dtype=torch.float64), bias)] * 8
        found = spectral_margin_bound(spectral_complexity(layers), torch.ones(10), 1.0, 1.0)
        assert found.value == math.inf
        assert found.log_complexity_term == pytest.approx(8 * 100 * math.log(10), rel=0.01)
    assert spectral_margin_bound(complexity(8.0), torch.ones(100), 10.0, 1.0).value > 100


def test_biases_add_the_constant_unit_to_the_data() -> None:
    plain = complexity()
    carried = SpectralComplexity(0.0, (1.0,), (1.0,), (1.0,), 2, augmented=True)
    values = torch.ones(16)
    with_unit = spectral_margin_bound(carried, values, 3.0, 1.0).log_complexity_term
    assert with_unit == pytest.approx(
        spectral_margin_bound(plain, values, 5.0, 1.0).log_complexity_term, rel=1e-12
    )


def trained(x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[list[DenseLayer], Tensor]:
    """A two-layer network without biases that fits the labels, and its margins."""
    weights = [
        torch.randn(b, a, generator=generator).mul_(math.sqrt(2 / a)).requires_grad_()
        for a, b in ((64, 128), (128, 10))
    ]
    optimiser = torch.optim.Adam(weights, lr=5e-3)
    logits = torch.empty(0)
    for _ in range(400):
        logits = torch.relu(x @ weights[0].T) @ weights[1].T
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(logits, y).backward()
        optimiser.step()
    logits = torch.relu(x @ weights[0].T) @ weights[1].T
    return [DenseLayer(w.detach()) for w in weights], margins(logits, y)


def test_random_labels_give_a_larger_normalised_complexity_than_true_ones() -> None:
    generator = torch.Generator().manual_seed(3)
    data, target = load_digits(return_X_y=True)
    x = torch.from_numpy(data[:400]).float() / 16
    y = torch.from_numpy(target[:400])
    shuffled = y[torch.randperm(400, generator=generator)]
    terms = {}
    for name, labels in (("true", y), ("random", shuffled)):
        layers, found = trained(x, labels, generator)
        assert float((found > 0).double().mean()) == 1.0
        # At the median margin, so that the two networks are asked for the same share of confident examples.
        bound = spectral_margin_bound(
            spectral_complexity(layers), found, float(x.norm()), float(found.median())
        )
        terms[name] = bound.log_complexity_term
    assert terms["random"] > terms["true"] + math.log(2)


def test_bad_inputs_are_refused() -> None:
    values = torch.ones(4)
    for theta in (0.0, -1.0, math.nan):
        with pytest.raises(SettingError, match="theta must be positive"):
            ramp_loss(values, theta)
        with pytest.raises(SettingError, match="theta must be positive"):
            spectral_margin_bound(complexity(), values, 1.0, theta)
    with pytest.raises(SettingError, match="0 margins"):
        spectral_margin_bound(complexity(), values[:0], 1.0)
    with pytest.raises(SettingError, match="delta in"):
        spectral_margin_bound(complexity(), values, 1.0, delta=0.0)
    with pytest.raises(SettingError, match="data norm"):
        spectral_margin_bound(complexity(), values, math.inf)
    with pytest.raises(NumericalError, match="NaN"):
        spectral_margin_bound(complexity(), values * math.nan, 1.0)
