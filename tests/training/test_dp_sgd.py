"""Private training: its gradients one by one, its noise by its moments, its accounting against integrals."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from torchstone.errors import SettingError
from torchstone.specimens.networks import mlp
from torchstone.training.dp_sgd import epsilon, fit_privately
from torchstone.training.evaluation import cross_entropy


def problem() -> tuple[nn.Module, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    model = mlp([4, 6, 3], generator=generator).double()
    x = torch.randn(40, 4, generator=generator, dtype=torch.float64)
    return model, x, torch.randint(3, (40,), generator=generator)


def sgd(lr: float = 0.1):
    return lambda parameters: torch.optim.SGD(parameters, lr=lr)


@pytest.mark.parametrize("clip", [0.3, 2.0, 1e9])
def test_a_step_without_noise_is_the_sum_of_clipped_gradients(clip: float) -> None:
    model, x, y = problem()
    other = copy.deepcopy(model)
    run = fit_privately(
        model,
        cross_entropy,
        x,
        y,
        optimizer=sgd(),
        batch_size=10,
        steps=1,
        clip=clip,
        noise=0.0,
        generator=torch.Generator().manual_seed(3),
    )
    rows = (torch.rand(40, generator=torch.Generator().manual_seed(3)) < 10 / 40).nonzero()[:, 0]
    total = [torch.zeros_like(p) for p in other.parameters()]
    cut = 0
    for row in rows:  # the slow way
        gradients = torch.autograd.grad(
            cross_entropy(other, x[row][None], y[row][None]).sum(), list(other.parameters())
        )
        norm = torch.cat([g.flatten() for g in gradients]).norm()
        cut += int(norm > clip)
        for part, g in zip(total, gradients, strict=True):
            part += g * min(1.0, clip / float(norm))
    for p, q, part in zip(model.parameters(), other.parameters(), total, strict=True):
        assert torch.allclose(p, q - 0.1 * part / 10, rtol=1e-12, atol=1e-14)
    assert run.clipped == pytest.approx(cut / len(rows))
    assert run.epsilon == math.inf


def test_the_noise_has_the_size_it_should() -> None:
    """With all gradients clipped to next to nothing a step is lr * noise * clip / B times a normal vector."""
    moves = []
    for seed in range(60):
        model, x, y = problem()
        before = torch.cat([p.detach().flatten() for p in model.parameters()]).clone()
        fit_privately(
            model,
            lambda m, a, b: 1e-12 * cross_entropy(m, a, b),
            x,
            y,
            optimizer=sgd(1.0),
            batch_size=20,
            steps=1,
            clip=0.5,
            noise=2.0,
            generator=torch.Generator().manual_seed(seed),
        )
        moves.append(torch.cat([p.detach().flatten() for p in model.parameters()]) - before)
    values = torch.stack(moves).flatten()
    assert float(values.std()) == pytest.approx(2.0 * 0.5 / 20, rel=4 / (2 * len(values)) ** 0.5)
    assert abs(float(values.mean())) < 4 * 0.05 / len(values) ** 0.5


def test_it_learns_and_says_what_it_spent() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(600, 2, generator=generator)
    y = (x[:, 0] + x[:, 1] > 0).long()
    model = mlp([2, 8, 2], generator=generator)
    state = torch.get_rng_state()
    run = fit_privately(
        model,
        cross_entropy,
        x,
        y,
        optimizer=sgd(1.0),
        batch_size=60,
        steps=80,
        clip=1.0,
        noise=1.0,
        generator=generator,
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert float((model(x).argmax(1) == y).double().mean()) > 0.95
    assert run.delta == 1 / 6000
    assert run.epsilon == epsilon(1.0, 0.1, 80, 1 / 6000)
    assert 1 < run.epsilon < 10
    assert run.losses.shape == (80,)
    assert float(run.losses[-10:].nanmean()) < 0.5 * float(run.losses[:3].nanmean())
    assert all(p.grad is None for p in model.parameters())


def test_frozen_parameters_stay_and_the_same_seed_gives_the_same_bits() -> None:
    results = []
    for _ in range(2):
        model, x, y = problem()
        frozen = next(model.parameters())
        frozen.requires_grad_(False)
        before = frozen.clone()
        fit_privately(
            model, cross_entropy, x, y, optimizer=sgd(), batch_size=1, steps=20, clip=1.0, noise=1.0,
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
        assert torch.equal(frozen, before)
        results.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*results)


def renyi_by_integration(noise: float, rate: float, order: float) -> float:
    """The divergence of a mixture of N(0, s^2) and N(1, s^2) from N(0, s^2), on a fine grid and in logarithms."""
    z = torch.linspace(-15 * noise, 15 * noise + order, 400_001, dtype=torch.float64)
    log_ratio = torch.logaddexp(
        torch.tensor(math.log1p(-rate) if rate < 1 else -math.inf),
        math.log(rate) + (2 * z - 1) / (2 * noise**2),
    )
    log_density = -0.5 * (z / noise) ** 2 - math.log(noise * math.sqrt(2 * math.pi))
    total = torch.logsumexp(order * log_ratio + log_density, 0) + math.log(float(z[1] - z[0]))
    return float(total) / (order - 1)


@pytest.mark.parametrize(("noise", "rate"), [(1.0, 0.01), (1.5, 0.2), (4.0, 0.5), (2.0, 1.0)])
def test_the_divergence_against_its_integral(noise: float, rate: float) -> None:
    from torchstone.training.dp_sgd import _renyi  # pyright: ignore[reportPrivateUsage]

    for order in (2, 3, 8, 20):
        assert _renyi(noise, rate, order) == pytest.approx(renyi_by_integration(noise, rate, order), rel=1e-6)


def test_the_bound_is_above_the_exact_privacy_of_the_gaussian_mechanism() -> None:
    """delta(epsilon) of one Gaussian mechanism is known exactly (Balle & Wang 2018, theorem 8)."""
    from scipy.stats import norm

    for noise, steps in ((1.0, 1), (3.0, 1), (10.0, 50)):
        mu = steps**0.5 / noise  # the composition of Gaussian mechanisms is one
        found = epsilon(noise, 1.0, steps, 1e-5)
        exact = norm.cdf(mu / 2 - found / mu) - math.exp(found) * norm.cdf(-mu / 2 - found / mu)
        assert exact <= 1e-5
        looser = found * 0.8  # and not far above it
        assert norm.cdf(mu / 2 - looser / mu) - math.exp(looser) * norm.cdf(-mu / 2 - looser / mu) > 1e-5


def test_sampling_helps_and_steps_cost() -> None:
    assert epsilon(1.0, 0.01, 100, 1e-5) < epsilon(1.0, 0.1, 100, 1e-5) < epsilon(1.0, 1.0, 100, 1e-5)
    assert epsilon(1.0, 0.01, 100, 1e-5) < epsilon(1.0, 0.01, 1000, 1e-5)
    assert epsilon(2.0, 0.01, 100, 1e-5) < epsilon(1.0, 0.01, 100, 1e-5)
    assert epsilon(1.0, 0.0, 100, 1e-5) == epsilon(1.0, 0.5, 0, 1e-5) == 0
    assert epsilon(0.0, 0.1, 1, 1e-5) == math.inf


@pytest.mark.parametrize(
    "arguments", [(-1.0, 0.1, 1, 0.1), (1.0, 1.1, 1, 0.1), (1.0, 0.1, -1, 0.1), (1.0, 0.1, 1, 0.0)]
)
def test_accounting_out_of_range(arguments: tuple[float, float, int, float]) -> None:
    with pytest.raises(SettingError, match="epsilon\\(\\) needs"):
        epsilon(*arguments)


@pytest.mark.parametrize(
    "settings", [{"batch_size": 0}, {"batch_size": 41}, {"steps": 0}, {"clip": 0.0}, {"noise": -1.0}]
)
def test_settings_out_of_range(settings: dict[str, float]) -> None:
    model, x, y = problem()
    chosen = {"batch_size": 10, "steps": 1, "clip": 1.0, "noise": 1.0, **settings}
    with pytest.raises(SettingError, match="fit_privately needs"):
        fit_privately(model, cross_entropy, x, y, optimizer=sgd(), generator=torch.Generator(), **chosen)  # pyright: ignore[reportArgumentType]
