"""The divergence against torch.distributions, a full-covariance formula and its definition."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from torchstone.bounds.gaussian_kl import gaussian_kl
from torchstone.errors import SettingError


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_equals_the_library_and_the_dense_formula() -> None:
    mean, prior_mean = drawn(6), drawn(6, seed=1)
    std, prior_std = drawn(6, seed=2).exp(), drawn(6, seed=3).exp()
    found = float(gaussian_kl(mean, std, prior_mean, prior_std))
    diagonal = kl_divergence(Independent(Normal(mean, std), 1), Independent(Normal(prior_mean, prior_std), 1))
    dense = kl_divergence(
        MultivariateNormal(mean, std.square().diag()),
        MultivariateNormal(prior_mean, prior_std.square().diag()),
    )
    assert found == pytest.approx(float(diagonal), rel=1e-12)
    assert found == pytest.approx(float(dense), rel=1e-10)


def test_is_the_mean_log_ratio() -> None:
    """The definition, by sampling."""
    posterior, prior = Normal(0.3, 0.5), Normal(-0.2, 0.9)
    draws = 0.3 + 0.5 * drawn(400_000)
    ratios = posterior.log_prob(draws) - prior.log_prob(draws)
    exact = float(gaussian_kl(*(torch.tensor(v) for v in (0.3, 0.5, -0.2, 0.9))))
    assert abs(float(ratios.mean()) - exact) < 4 * float(ratios.std()) / len(ratios) ** 0.5


def test_keeps_its_digits_near_the_prior() -> None:
    """For a relative change e of the width the divergence is e^2: 1e-14 a coordinate here, lost where terms cancel."""
    one = torch.ones(1000, dtype=torch.float64)
    assert float(gaussian_kl(one, one * (1 + 1e-7), one, one)) == pytest.approx(1e-11, rel=1e-6)
    assert float(gaussian_kl(one, one, one, one)) == 0


def test_broadcasts_and_differentiates() -> None:
    mean = drawn(3, 4).requires_grad_()
    rho = drawn(3, 4, seed=1).requires_grad_()
    prior_std = torch.tensor(0.7, dtype=torch.float64)
    zero = torch.zeros(())
    assert torch.autograd.gradcheck(lambda m, r: gaussian_kl(m, r.exp(), zero, prior_std), (mean, rho))
    assert gaussian_kl(torch.ones(5), torch.tensor(1.0), torch.tensor(0.0), torch.tensor(1.0)).item() == 2.5


@pytest.mark.parametrize("wrong", [0.0, -1.0, math.nan, math.inf])
def test_widths_must_be_positive(wrong: float) -> None:
    one, bad = torch.ones(2), torch.tensor([1.0, wrong])
    with pytest.raises(SettingError, match=r"^std must be positive"):
        gaussian_kl(one, bad, one, one)
    with pytest.raises(SettingError, match="prior_std must be positive"):
        gaussian_kl(one, one, one, bad)
