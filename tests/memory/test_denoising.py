"""The optimal linear denoiser, and scores of normal laws and mixtures."""

import pytest
import torch

from torchstone.errors import NumericalError, SettingError
from torchstone.memory import gaussian_score, linear_denoiser, mixture_score, score_from_denoiser


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def law(d: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    root = drawn(d, d)
    return root @ root.T + 0.1 * torch.eye(d, dtype=torch.float64), drawn(d, seed=1)


def test_it_is_the_stationary_point_of_the_expected_loss():
    """E|W(x + n) - x|^2 = tr((W - I) S (W - I)') + s^2 |W|^2, differentiated by autograd."""
    sigma, _ = law()
    W = linear_denoiser(sigma, 0.3).weight.clone().requires_grad_(True)
    off = W - torch.eye(4, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((off @ sigma * off).sum() + 0.3 * W.square().sum(), W)
    assert float(gradient.norm()) < 1e-12
    assert torch.allclose(W, sigma @ torch.linalg.inv(sigma + 0.3 * torch.eye(4, dtype=torch.float64)))


def test_it_is_the_conditional_mean_in_a_simulation():
    sigma, mean = law(2)
    clean = mean + drawn(200_000, 2, seed=2) @ torch.linalg.cholesky(sigma).T
    noisy = clean + 0.5**0.5 * drawn(200_000, 2, seed=3)
    centred = noisy - noisy.mean(0)
    fitted = torch.linalg.lstsq(centred, clean - clean.mean(0)).solution.T
    assert torch.allclose(fitted, linear_denoiser(sigma, 0.5, mean).weight, atol=0.01)


@pytest.mark.parametrize("variance", [1e-6, 0.3, 50.0])
def test_its_score_is_exactly_that_of_the_noisy_law(variance: float):
    sigma, mean = law()
    y = mean + 3 * drawn(20, 4, seed=2)
    score = score_from_denoiser(linear_denoiser(sigma, variance, mean)(y), y, variance)
    noisy = sigma + variance * torch.eye(4, dtype=torch.float64)
    # Rounding in r(y) - y is divided by the variance.
    assert torch.allclose(score, gaussian_score(y, noisy, mean), rtol=1e-7, atol=1e-9 / variance**0.5)


def test_gaussian_scores_are_gradients_of_log_densities():
    sigma, mean = law()
    x = drawn(5, 4, seed=3).requires_grad_(True)
    density = torch.distributions.MultivariateNormal(mean, sigma).log_prob(x).sum()
    (expected,) = torch.autograd.grad(density, x)
    assert torch.allclose(gaussian_score(x.detach(), sigma, mean), expected, atol=1e-12)


def test_mixture_scores_are_gradients_of_log_densities_also_far_away():
    centres, weights = drawn(3, 2), torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    x = torch.cat([drawn(6, 2, seed=4), torch.full((1, 2), 1e3, dtype=torch.float64)]).requires_grad_(True)
    density = torch.logsumexp(weights.log() - torch.cdist(x, centres).square() / (2 * 0.4), 1).sum()
    (expected,) = torch.autograd.grad(density, x)
    assert torch.allclose(mixture_score(x.detach(), centres, 0.4, weights), expected, atol=1e-9)
    assert torch.allclose(
        mixture_score(x.detach(), centres, 0.4), mixture_score(x.detach(), centres, 0.4, torch.ones(3))
    )


def test_singular_covariances_are_fine():
    one = torch.ones(3, 3, dtype=torch.float64)
    assert torch.allclose(linear_denoiser(one, 1.0).weight, one / 4)


def test_what_it_refuses():
    with pytest.raises(SettingError, match="positive noise variance"):
        linear_denoiser(torch.eye(2), 0.0)
    with pytest.raises(SettingError, match="a mean"):
        linear_denoiser(torch.eye(2), 1.0, torch.zeros(3))
    with pytest.raises(NumericalError, match="semi-definite"):
        linear_denoiser(-torch.eye(2), 1.0)
    with pytest.raises(NumericalError, match="semi-definite"):
        linear_denoiser(torch.tensor([[1.0, 1.0], [0.0, 1.0]]), 1.0)
    with pytest.raises(SettingError, match="one shape"):
        score_from_denoiser(torch.zeros(2, 1), torch.zeros(2), 1.0)
    with pytest.raises(SettingError, match="variance must be positive"):
        mixture_score(torch.zeros(1, 1), torch.zeros(1, 1), 0.0)
