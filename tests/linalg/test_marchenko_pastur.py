"""The Marchenko-Pastur law against numerical integration, and the fit against matrices whose law is known."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.integrate import quad
from torch import Tensor

from torchstone.errors import NumericalError, SettingError
from torchstone.linalg.marchenko_pastur import (
    MarchenkoPastur,
    fit_marchenko_pastur,
    largest_eigenvalue_of_noise,
)


def noise(rows: int, columns: int, seed: int, spread: float = 0.3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(rows, columns, generator=generator, dtype=torch.float64)


def spectrum(w: Tensor) -> Tensor:
    return torch.linalg.svdvals(w).square() / max(w.shape)


@pytest.mark.parametrize("ratio", [0.05, 0.5, 0.99, 1.0])
def test_the_distribution_function_is_the_integral_of_the_density(ratio: float) -> None:
    law = MarchenkoPastur(ratio, 2.0)
    density = lambda x: float(law.density(torch.tensor([x]))[0])
    middle = law.low + 0.4 * (law.high - law.low)
    for x in (law.low + 0.01 * (law.high - law.low), middle, law.high - 1e-3):
        expected = quad(density, law.low, x, points=[min(x, law.low + 1e-4)], limit=200)[0]
        assert float(law.cdf(torch.tensor([x], dtype=torch.float64))[0]) == pytest.approx(expected, abs=2e-5)
    ends = law.cdf(torch.tensor([law.low - 1.0, law.low, law.high, law.high + 1], dtype=torch.float64))
    assert ends.tolist() == [0.0, 0.0, 1.0, 1.0]
    probabilities = torch.tensor([1e-4, 0.1, 0.5, 0.9, 1 - 1e-6], dtype=torch.float64)
    torch.testing.assert_close(law.cdf(law.quantile(probabilities)), probabilities, rtol=0, atol=1e-9)


def test_the_mean_is_the_variance_and_the_second_moment_one_plus_the_ratio() -> None:
    law = MarchenkoPastur(0.3, 2.0)
    middle = law.quantile((torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000)
    assert float(middle.mean()) == pytest.approx(2.0, rel=1e-4)
    assert float(middle.square().mean()) == pytest.approx(4.0 * 1.3, rel=1e-4)


@pytest.mark.parametrize("shape", [(512, 280), (280, 512), (1000, 100), (400, 400)])
def test_edges_of_gaussian_matrices_within_3_percent_and_at_most_one_outlier(shape: tuple[int, int]) -> None:
    for seed in range(5):
        fit = fit_marchenko_pastur(spectrum(noise(*shape, seed)), *shape)
        ratio = min(shape) / max(shape)
        assert fit.law.high == pytest.approx(0.09 * (1 + math.sqrt(ratio)) ** 2, rel=0.03)
        assert fit.law.low == pytest.approx(0.09 * (1 - math.sqrt(ratio)) ** 2, rel=0.03, abs=1e-6)
        assert fit.outliers <= 1
        assert fit.distance < 5 / min(shape)


def test_noise_shows_an_outlier_as_often_as_the_level_says() -> None:
    shape, count = (80, 30), 400
    shown = sum(
        fit_marchenko_pastur(spectrum(noise(*shape, seed)), *shape, level=0.1).outliers > 0
        for seed in range(count)
    )
    # Binomial(400, 0.1) has a standard deviation of 6; the limit law is off by a percent or so at this size.
    assert 22 <= shown <= 58


def test_uniform_entries_have_the_same_law() -> None:
    generator = torch.Generator().manual_seed(0)
    w = torch.rand(600, 200, generator=generator, dtype=torch.float64) - 0.5
    fit = fit_marchenko_pastur(spectrum(w), 600, 200)
    assert fit.outliers == 0
    assert fit.variance == pytest.approx(1 / 12, rel=0.02)


@pytest.mark.parametrize("planted", [1, 8, 20])
def test_planted_directions_are_counted_and_do_not_bend_the_noise(planted: int) -> None:
    for seed in range(5):
        w = noise(400, 200, seed, 1.0)
        generator = torch.Generator().manual_seed(100 + seed)
        u = torch.linalg.qr(torch.randn(400, planted, generator=generator, dtype=torch.float64)).Q
        v = torch.linalg.qr(torch.randn(200, planted, generator=generator, dtype=torch.float64)).Q
        fit = fit_marchenko_pastur(spectrum(w + 60 * u @ v.T), 400, 200)
        assert fit.outliers == planted
        assert fit.variance == pytest.approx(1.0, rel=0.03)
        values = spectrum(w + 60 * u @ v.T).sort().values
        assert fit.share == pytest.approx(float(values[-planted:].sum() / values.sum()))


def test_the_largest_eigenvalue_of_noise_is_below_its_quantile_as_often_as_it_says() -> None:
    """Also for small matrices, where the asymptotic centring matters."""
    for shape in ((30, 10), (20, 20)):
        median = largest_eigenvalue_of_noise(*shape, 0.5)
        below = sum(float(spectrum(noise(*shape, seed, 1.0))[0]) < median for seed in range(600))
        assert below == pytest.approx(300, abs=50)  # four standard deviations


def test_a_scaled_matrix_has_a_scaled_law() -> None:
    values = spectrum(noise(100, 40, 0))
    one, other = (fit_marchenko_pastur(scale * values, 100, 40) for scale in (1.0, 1e-12))
    assert other.law.high == pytest.approx(1e-12 * one.law.high, rel=1e-9)
    assert (other.outliers, other.distance) == (one.outliers, pytest.approx(one.distance))


def test_what_cannot_be_fitted_is_named() -> None:
    good = spectrum(noise(20, 10, 0))
    with pytest.raises(SettingError, match="all its min"):
        fit_marchenko_pastur(good[:5], 20, 10)
    with pytest.raises(NumericalError, match="finite and not negative"):
        fit_marchenko_pastur(-good, 20, 10)
    with pytest.raises(NumericalError, match="finite and not negative"):
        fit_marchenko_pastur(good * math.nan, 20, 10)
    with pytest.raises(NumericalError, match="must not be 0"):
        fit_marchenko_pastur(torch.zeros(10), 20, 10)
    with pytest.raises(SettingError, match="ratio p/n in"):
        MarchenkoPastur(1.5)
    with pytest.raises(SettingError, match="rows and columns"):
        largest_eigenvalue_of_noise(0, 3, 0.5)
