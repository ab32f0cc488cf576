"""Two-part codelengths: exact at the posterior, larger elsewhere, against densities and simulation."""

import math

import pytest
import torch
from sklearn.decomposition import PCA

from torchstone.errors import NumericalError, SettingError
from torchstone.memory import ProbabilisticPCA, entropy_bits, gaussian_bits, linear_codelength


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def data(n: int = 60, d: int = 6) -> torch.Tensor:
    return drawn(n, 3) @ drawn(3, d, seed=1) + 0.3 * drawn(n, d, seed=2) + 5


def test_the_fit_is_that_of_tipping_and_bishop_as_scikit_learn_scores_it():
    x = data()
    ours = ProbabilisticPCA.fit(x, 2)
    # scikit-learn divides by N - 1, so it is given the covariance's other scale by a factor on the data.
    n = len(x)
    centred = (x - x.mean(0)) * math.sqrt((n - 1) / n)
    theirs = PCA(2, svd_solver="full").fit(centred.numpy())
    assert ours.noise_variance == pytest.approx(theirs.noise_variance_)
    covariance = ours.decoder @ ours.decoder.T + ours.noise_variance * torch.eye(6, dtype=torch.float64)
    assert covariance.numpy() == pytest.approx(theirs.get_covariance())


def test_exact_bits_are_the_normal_density_s():
    x = data()
    law = ProbabilisticPCA.fit(x, 2)
    covariance = law.decoder @ law.decoder.T + law.noise_variance * torch.eye(6, dtype=torch.float64)
    density = torch.distributions.MultivariateNormal(law.mean, covariance).log_prob(x)
    assert torch.allclose(law.exact_bits(x), -density / math.log(2), atol=1e-9)


@pytest.mark.parametrize("components", [1, 3, 5])
def test_the_bound_is_exact_at_the_posterior(components: int):
    x = data()
    law = ProbabilisticPCA.fit(x, components)
    assert torch.allclose(law.codelength(x).total, law.exact_bits(x), atol=1e-9)


def test_anywhere_else_it_exceeds_by_the_divergence_from_the_posterior():
    x = data()
    law = ProbabilisticPCA.fit(x, 2)
    codes, S = law.encode(x) + 0.2 * drawn(60, 2, seed=5), torch.tensor([[0.5, 0.1], [0.1, 0.2]]).double()
    bound = linear_codelength(x, codes, S, law.decoder, law.mean, law.noise_variance)
    proposal = torch.distributions.MultivariateNormal(codes, S)
    posterior = torch.distributions.MultivariateNormal(law.encode(x), law.posterior_covariance)
    divergence = torch.distributions.kl_divergence(proposal, posterior) / math.log(2)
    assert torch.allclose(bound.total - law.exact_bits(x), divergence, atol=1e-9)
    assert bool((divergence > 0).all())


def test_the_parts_are_the_means_they_stand_for():
    x = data()[:3]
    law = ProbabilisticPCA.fit(data(), 2)
    codes, S = law.encode(x), torch.tensor([[0.5, 0.1], [0.1, 0.2]]).double()
    bound = linear_codelength(x, codes, S, law.decoder, law.mean, law.noise_variance)
    y = codes + drawn(200_000, 1, 2, seed=7) @ torch.linalg.cholesky(S).T
    output = law.mean + y @ law.decoder.T
    sample = gaussian_bits((x - output).square().sum(2), 6, law.noise_variance)
    features = gaussian_bits(y.square().sum(2), 2, 1.0)
    for part, drawn_part in ((bound.reconstruction, sample), (bound.features, features)):
        error = drawn_part.std(0) / 200_000**0.5
        assert bool(((part - drawn_part.mean(0)).abs() < 4 * error).all())
    entropy = torch.distributions.MultivariateNormal(torch.zeros(2).double(), S).entropy() / math.log(2)
    assert bound.noise.tolist() == pytest.approx([-float(entropy)] * 3)


def test_data_on_a_line_keep_a_positive_noise():
    law = ProbabilisticPCA.fit(torch.linspace(0, 1, 5)[:, None] * torch.ones(3), 2)
    assert law.noise_variance > 0
    assert bool(law.exact_bits(torch.ones(1, 3)).isfinite().all())


def test_fewer_examples_than_components_are_fine():
    x = data(3)
    law = ProbabilisticPCA.fit(x, 5)
    assert torch.allclose(law.codelength(x).total, law.exact_bits(x), rtol=1e-6)


def test_what_it_refuses():
    x, law = data(), ProbabilisticPCA.fit(data(), 2)
    with pytest.raises(SettingError, match="must fit x"):
        linear_codelength(x, x, law.posterior_covariance, law.decoder, law.mean, 1.0)
    with pytest.raises(SettingError, match="noise_variance"):
        linear_codelength(x, law.encode(x), law.posterior_covariance, law.decoder, law.mean, 0.0)
    with pytest.raises(NumericalError, match="positive definite"):
        entropy_bits(torch.zeros(2, 2))
    with pytest.raises(SettingError, match="two examples"):
        ProbabilisticPCA.fit(x[:1], 2)
    with pytest.raises(SettingError, match="components = 6"):
        ProbabilisticPCA.fit(x, 6)
