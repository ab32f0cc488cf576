"""Spectra against NumPy's covariance; ranks against closed forms; whitening against its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from torchstone.errors import NumericalError, SettingError
from torchstone.kernels.spectrum import (
    condition_number,
    covariance_spectrum,
    effective_rank,
    isotropy,
    participation_ratio,
    stable_rank,
    zca_whitening,
)


def features(n: int, d: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    scales = torch.linspace(0.1, 2, d, dtype=torch.float64)
    return 5 + torch.randn(n, d, generator=generator, dtype=torch.float64) * scales


@pytest.mark.parametrize(("n", "d"), [(50, 8), (8, 50), (20, 20), (2, 3)])
@pytest.mark.parametrize("chunk", [3, 4096])
def test_spectrum_is_that_of_the_covariance(n: int, d: int, chunk: int) -> None:
    x = features(n, d)
    truth = np.linalg.eigvalsh(np.cov(x.numpy().T))[::-1]
    found = covariance_spectrum(x, chunk=chunk)
    assert found.shape == (d,)
    assert torch.allclose(found, torch.from_numpy(truth.copy()), rtol=0, atol=1e-12 * truth[0])
    uncentred = torch.linalg.svdvals(x).square() / n
    found = covariance_spectrum(x, centre=False, chunk=chunk)
    assert torch.allclose(found[: min(n, d)], uncentred, rtol=0, atol=1e-12 * float(uncentred[0]))
    assert bool((found[min(n, d) :] == 0).all())


@pytest.mark.parametrize("rank", [1, 2, 5, 10, 20])
def test_effective_rank_of_an_embedded_gaussian(rank: int) -> None:
    generator = torch.Generator().manual_seed(1)
    basis = torch.linalg.qr(torch.randn(100, rank, generator=generator, dtype=torch.float64))[0]
    x = torch.randn(20_000, rank, generator=generator, dtype=torch.float64) @ basis.T
    spectrum = covariance_spectrum(x)
    assert effective_rank(spectrum) == pytest.approx(rank, rel=0.02)
    assert participation_ratio(spectrum) == pytest.approx(rank, rel=0.02)
    assert condition_number(spectrum) == math.inf


@pytest.mark.parametrize("d", [1, 2, 7, 300])
def test_ranks_of_a_power_law_by_their_formulas(d: int) -> None:
    spectrum = torch.arange(1, d + 1, dtype=torch.float64) ** -1.3
    p = (spectrum / spectrum.sum()).tolist()
    assert effective_rank(spectrum) == pytest.approx(math.prod(q**-q for q in p), rel=1e-12)
    assert participation_ratio(spectrum) == pytest.approx(1 / sum(q * q for q in p), rel=1e-12)
    assert stable_rank(spectrum) == pytest.approx(1 / max(p), rel=1e-12)
    assert condition_number(spectrum) == pytest.approx(d**1.3, rel=1e-12)
    ordered = [1.0, stable_rank(spectrum), participation_ratio(spectrum), effective_rank(spectrum), float(d)]
    assert ordered == sorted(ordered) or d == 1
    away = spectrum / spectrum.mean() - 1
    assert math.sqrt(1 / isotropy(spectrum) - 1) == pytest.approx(float(away.norm()) / math.sqrt(d), abs=1e-7)


def test_equal_eigenvalues_are_isotropic_at_any_scale() -> None:
    for scale in (1e-300, 1.0, 1e300):
        spectrum = torch.full((12,), scale, dtype=torch.float64)
        measured = (
            effective_rank(spectrum),
            participation_ratio(spectrum),
            stable_rank(spectrum),
            12 * isotropy(spectrum),
        )
        assert measured == pytest.approx((12.0,) * 4, rel=1e-12)
        assert condition_number(spectrum) == 1.0


def test_sampling_bias_of_the_participation_ratio_is_as_documented() -> None:
    x = torch.randn(400, 200, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert participation_ratio(covariance_spectrum(x)) == pytest.approx(200 / (1 + 200 / 400), rel=0.02)


def test_whitened_features_have_the_identity_as_covariance() -> None:
    x = features(500, 30, seed=3) @ features(30, 30, seed=4)
    for data in (x, x.float()):
        white = zca_whitening(data)
        out = white.apply(data)
        assert white.rank == 30
        assert float((out.T.cov() - torch.eye(30)).abs().max()) < 1e-5
        assert float(out.mean(0).abs().max()) < 1e-6
        assert torch.allclose(
            white.matrix, white.matrix.T, rtol=0, atol=1e-12 * float(white.matrix.abs().max())
        )


def test_zca_moves_the_data_least_among_whitenings() -> None:
    # For any rotation Q of the whitened data the mean squared move tr(S) + d - 2 tr(Q S^(1/2)) is larger.
    x = features(200, 6, seed=5)
    white = zca_whitening(x)
    out, centred = white.apply(x), x - x.mean(0)
    generator = torch.Generator().manual_seed(6)
    for _ in range(20):
        turn = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64))[0]
        assert float((out - centred).square().sum()) < float((out @ turn - centred).square().sum())


def test_rank_deficient_features_whiten_to_a_projection() -> None:
    x = features(300, 4, seed=7) @ features(4, 9, seed=8)
    white = zca_whitening(x)
    covariance = white.apply(x).T.cov()
    assert white.rank == 4
    assert torch.allclose(covariance @ covariance, covariance, atol=1e-8)
    assert float(covariance.trace()) == pytest.approx(4.0, rel=1e-9)


def test_regularised_whitening_has_its_closed_form() -> None:
    x = features(300, 5, seed=9)
    covariance = x.T.cov()
    values, vectors = torch.linalg.eigh(
        covariance + 0.1 * covariance.trace() / 5 * torch.eye(5, dtype=torch.float64)
    )
    expected = vectors @ torch.diag(values.rsqrt()) @ vectors.T
    assert torch.allclose(zca_whitening(x, regularisation=0.1).matrix, expected, rtol=0, atol=1e-12)


def test_bad_inputs_are_refused() -> None:
    with pytest.raises(SettingError, match="at least 2 examples"):
        covariance_spectrum(torch.ones(1, 3))
    with pytest.raises(NumericalError, match="Features must be finite"):
        covariance_spectrum(torch.full((3, 3), math.inf))
    for spectrum in (torch.zeros(3), torch.tensor([1.0, -1.0]), torch.tensor([math.nan])):
        with pytest.raises(NumericalError, match="non-negative finite"):
            effective_rank(spectrum)
    # 0.1 is not a dyadic number: centring it leaves rounding, which must not pass for a spectrum.
    constant = torch.full((7, 3), 0.1, dtype=torch.float64)
    assert covariance_spectrum(constant).tolist() == [0.0, 0.0, 0.0]
    with pytest.raises(NumericalError, match="Constant features"):
        zca_whitening(constant)
    with pytest.raises(SettingError, match="non-negative"):
        zca_whitening(torch.ones(3, 2), regularisation=-1)
