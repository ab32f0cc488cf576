"""Tails of power laws: planted exponents, SciPy's maximum likelihood, coverage, and awkward samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from torchstone.bounds.pareto_tail import fit_pareto_tail, pareto_tail_bootstrap, resampled_exponents
from torchstone.errors import NumericalError, SettingError


def pareto(count: int, seed: int, alpha: float = 2.5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, generator=generator, dtype=torch.float64) ** (-1 / (alpha - 1))


@pytest.mark.parametrize("seed", range(4))
def test_alpha_of_5000_values_within_a_tenth(seed: int) -> None:
    assert fit_pareto_tail(pareto(5000, seed)).alpha == pytest.approx(2.5, abs=0.1)


def test_alpha_given_the_start_is_scipys_maximum_likelihood() -> None:
    values = pareto(300, 1) * 7.0
    start = float(values.min())
    shape, _, _ = stats.pareto.fit(values.numpy(), floc=0, fscale=start)
    found = fit_pareto_tail(values, start=start)
    assert found.alpha == pytest.approx(1 + shape, rel=1e-9)
    assert found.size == 300
    below = (values.sort().values > start * (1 + 1e-15)).double()  # by hand: share strictly below each value
    ranks = torch.arange(300, dtype=torch.float64) / 300
    law = 1 - (values.sort().values / start) ** (1 - found.alpha)
    assert found.distance == pytest.approx(float((ranks - law).abs().max()), rel=1e-9)
    assert below.sum() == 299


def test_the_start_is_found_by_trying_every_value() -> None:
    generator = torch.Generator().manual_seed(3)
    body = torch.rand(200, generator=generator, dtype=torch.float64)
    values = torch.cat([body, pareto(300, 4)])
    found = fit_pareto_tail(values)
    distances = {
        float(x): fit_pareto_tail(values, start=float(x)).distance for x in values.sort().values[:-9]
    }
    assert found.distance == pytest.approx(min(distances.values()), abs=1e-12)
    assert found.start == min(distances, key=lambda x: distances[x])
    assert found.start == pytest.approx(1.0, abs=0.25)


@pytest.mark.parametrize(
    ("freedom", "alpha", "start", "size"),
    [(2, 2.14616981, 1032.82396, 38), (3, 2.90354632, 591.069588, 26), (6, 5.76633854, 431.108948, 16)],
)
def test_the_tails_that_weightwatcher_finds(freedom: int, alpha: float, start: float, size: int) -> None:
    """Made once with weightwatcher 0.7.7, in float32, from matrices of Student's t."""
    matrix = torch.from_numpy(np.random.RandomState(0).standard_t(freedom, size=(150, 100)))
    found = fit_pareto_tail(torch.linalg.svdvals(matrix).square())
    assert (found.alpha, found.start) == (pytest.approx(alpha, rel=1e-5), pytest.approx(start, rel=1e-5))
    assert found.size == size


def test_the_interval_given_the_start_covers_exactly() -> None:
    covered = sum(2.5 in fit_pareto_tail(pareto(20, seed), start=1.0).interval for seed in range(1000))
    assert 930 <= covered <= 968  # Binomial(1000, 0.95) within three standard deviations


def test_the_bootstrap_covers_where_the_start_is_searched() -> None:
    covered = 0
    for seed in range(120):
        generator = torch.Generator().manual_seed(10_000 + seed)
        covered += 2.5 in pareto_tail_bootstrap(pareto(200, seed), generator, resamples=100, candidates=20)
    assert covered >= 107  # Binomial(120, 0.95) is below with probability 0.5%


def test_each_resample_is_fitted_as_a_sample_of_its_own() -> None:
    values = (20 * pareto(60, 3)).round()  # with ties
    found = resampled_exponents(values, torch.Generator().manual_seed(4), resamples=50, candidates=1000)
    ordered = values.sort().values
    rows = torch.randint(60, (50, 60), generator=torch.Generator().manual_seed(4))
    expected = [fit_pareto_tail(ordered[row]).alpha for row in rows]
    assert found.tolist() == pytest.approx(expected, rel=1e-9)


def test_many_values_are_resampled_in_parts() -> None:
    values = pareto(100_000, 1)
    found = resampled_exponents(values, torch.Generator().manual_seed(0), resamples=40, candidates=2)
    assert found.shape == (40,)
    assert float(found.mean()) == pytest.approx(2.5, abs=0.02)


def test_scale_does_not_matter_and_ties_do_no_harm() -> None:
    values = pareto(400, 5)
    one, other = fit_pareto_tail(values), fit_pareto_tail(1e9 * values)
    assert other.alpha == pytest.approx(one.alpha, rel=1e-9)
    assert other.start == pytest.approx(1e9 * one.start, rel=1e-9)
    rounded = (values * 4).round() / 4
    found = fit_pareto_tail(rounded)
    assert found.size == int((rounded >= found.start).sum())
    assert math.isfinite(found.alpha)


def test_a_constant_sample_has_an_infinite_exponent() -> None:
    found = fit_pareto_tail(torch.full((30,), 2.0))
    assert found.alpha == math.inf
    assert found.interval.low == math.inf


def test_an_exponential_tail_has_a_larger_exponent_the_further_out() -> None:
    """What is no power law gets a steep one: the exponent of a light tail grows with the start."""
    generator = torch.Generator().manual_seed(6)
    values = -torch.rand(5000, generator=generator, dtype=torch.float64).log()
    near, far = (fit_pareto_tail(values, start=start).alpha for start in (0.5, 4.0))
    assert far > near + 2


def test_what_cannot_be_fitted_is_named() -> None:
    with pytest.raises(SettingError, match="at least 10 positive values"):
        fit_pareto_tail(torch.zeros(100))
    with pytest.raises(NumericalError, match="finite values that are not negative"):
        fit_pareto_tail(torch.tensor([1.0, -1.0] * 20))
    with pytest.raises(NumericalError, match="finite values that are not negative"):
        fit_pareto_tail(torch.tensor([1.0, math.nan] * 20))
    with pytest.raises(SettingError, match="start must be positive"):
        fit_pareto_tail(pareto(20, 0), start=1e9)
    with pytest.raises(SettingError, match="least must be at least 2"):
        fit_pareto_tail(pareto(20, 0), least=1)
    with pytest.raises(SettingError, match="at least 40 resamples"):
        pareto_tail_bootstrap(pareto(20, 0), torch.Generator(), resamples=3)
