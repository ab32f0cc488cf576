"""Codelengths of decoders known by their values: against the exact ones of linear decoders."""

import pytest
import torch

from torchstone.errors import NumericalError, SettingError
from torchstone.memory import (
    CodeModel,
    ProbabilisticPCA,
    fit_code_model,
    linear_codelength,
    noisy_code_bits,
)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def data() -> torch.Tensor:
    return drawn(80, 3) @ (2 * drawn(3, 6, seed=1)) + 0.3 * drawn(80, 6, seed=2) + 5


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(9)


def test_at_the_linear_optimum_the_fit_is_probabilistic_pca():
    x = data()
    law = ProbabilisticPCA.fit(x, 2)
    codes, W = law.encode(x), law.decoder
    errors = (x - law.mean - codes @ W.T).square().sum(1)
    model = fit_code_model(codes, errors, W.T @ W, 6, least_variance=1e-9)
    assert model.noise_variance == pytest.approx(law.noise_variance, rel=1e-6)
    assert torch.allclose(model.covariance, torch.eye(2, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(model.noise_covariance, law.posterior_covariance, atol=1e-6)
    bits = noisy_code_bits(lambda y: law.mean + y @ W.T, x, codes, model, draws=2000, generator=generator())
    assert float(bits.total.mean()) == pytest.approx(float(law.exact_bits(x).mean()), abs=0.05)


def test_the_bound_is_unbiased_for_the_exact_one():
    x = data()[:4]
    law = ProbabilisticPCA.fit(data(), 2)
    S = torch.tensor([[0.3, 0.1], [0.1, 0.2]], dtype=torch.float64)
    codes = law.encode(x) + 0.1
    exact = linear_codelength(x, codes, S, law.decoder, law.mean, law.noise_variance)
    model = CodeModel(torch.zeros(2).double(), torch.eye(2).double(), S, law.noise_variance)
    decode = lambda y: law.mean + y @ law.decoder.T
    runs = [
        noisy_code_bits(decode, x, codes, model, draws=50, generator=torch.Generator().manual_seed(seed))
        for seed in range(40)
    ]
    totals = torch.stack([run.total for run in runs])
    error = totals.std(0) / 40**0.5
    assert bool(((totals.mean(0) - exact.total).abs() < 4 * error).all())
    assert torch.allclose(runs[0].features, exact.features)
    assert torch.allclose(runs[0].noise, exact.noise)


def test_any_model_stays_above_the_exact_codelength_of_a_linear_decoder():
    x = data()
    law = ProbabilisticPCA.fit(x, 2)
    decode = lambda y: law.mean + y @ law.decoder.T
    for scale in (0.3, 3.0):
        model = CodeModel(
            torch.zeros(2).double(),
            torch.eye(2).double(),
            scale * law.posterior_covariance,
            law.noise_variance,
        )
        bits = noisy_code_bits(decode, x, law.encode(x), model, draws=500, generator=generator())
        assert float((bits.total - law.exact_bits(x)).mean()) > 0.1


def test_dead_features_and_interpolation_stay_finite():
    x = data()
    codes = torch.cat([drawn(80, 1), torch.zeros(80, 1, dtype=torch.float64)], 1)
    model = fit_code_model(codes, torch.zeros(80), torch.zeros(2, 2), 6, least_variance=1e-6)
    assert model.noise_variance == 1e-6
    bits = noisy_code_bits(lambda y: x + 0 * y[:, :1], x, codes, model, draws=1, generator=generator())
    assert bool(bits.total.isfinite().all())


def test_what_it_refuses():
    codes = drawn(5, 2)
    with pytest.raises(SettingError, match="positive least variance"):
        fit_code_model(codes, torch.zeros(5), torch.eye(2), 6, least_variance=0.0)
    with pytest.raises(SettingError, match="one error a code"):
        fit_code_model(codes, torch.zeros(4), torch.eye(2), 6, least_variance=1e-6)
    with pytest.raises(NumericalError, match="codes must be finite"):
        fit_code_model(codes * float("nan"), torch.zeros(5), torch.eye(2), 6, least_variance=1e-6)
    model = fit_code_model(codes, torch.ones(5), torch.eye(2), 6, least_variance=1e-6)
    with pytest.raises(SettingError, match="at least one draw"):
        noisy_code_bits(lambda y: y, drawn(5, 6), codes, model, draws=0, generator=generator())
