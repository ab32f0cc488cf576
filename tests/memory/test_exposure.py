"""Exposure: ranks against counting, the law of secrets never seen, and the skew-normal tail against known laws."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from torchstone.errors import NumericalError, SettingError
from torchstone.memory.canaries import CanaryFormat
from torchstone.memory.exposure import (
    CHANCE,
    chance,
    exposure,
    exposures_of,
    extrapolated_exposure,
    log_perplexities,
)

FORM = CanaryFormat((9, None, None, 8, None), tuple(range(8)))


class RandomModel:
    """Next-token scores from a random table of the last two tokens."""

    def __init__(self, generator: torch.Generator, vocabulary: int = 10) -> None:
        self.table = torch.randn(vocabulary, vocabulary, vocabulary, generator=generator, dtype=torch.float64)

    def __call__(self, tokens: Tensor) -> Tensor:
        before = torch.cat([torch.zeros_like(tokens[:, :1]), tokens[:, :-1]], dim=1)
        return self.table[before, tokens]


def test_log_perplexity_is_minus_log2_of_the_probability() -> None:
    model = RandomModel(torch.Generator().manual_seed(0))
    sequences = FORM.sequences()[:50]
    found = log_perplexities(model, sequences, batch_size=7)
    for row, value in zip(sequences.tolist(), found.tolist(), strict=True):
        probability, before = 1.0, 0
        for now, then in pairwise(row):
            probability *= float(model.table[before, now].softmax(0)[then])
            before = now
        assert value == pytest.approx(-math.log2(probability), rel=1e-12)


def test_exposure_against_counting() -> None:
    generator = torch.Generator().manual_seed(0)
    everything = torch.randint(20, (64,), generator=generator).double()  # many ties
    for row in range(64):
        less, same = int((everything < everything[row]).sum()), int((everything == everything[row]).sum())
        rank = sum(range(less + 1, less + same + 1)) / same
        assert float(exposure(everything, torch.tensor([row]))) == pytest.approx(6 - math.log2(rank))


def test_the_likeliest_reaches_log2_of_the_size_and_the_unlikeliest_0() -> None:
    everything = torch.randperm(512, generator=torch.Generator().manual_seed(0)).double()
    ends = torch.stack([everything.argmin(), everything.argmax()])
    assert exposure(everything, ends).tolist() == [9.0, 0.0]
    assert exposure(torch.ones(16), torch.tensor([3])).item() == pytest.approx(4 - math.log2(8.5))


def test_what_is_not_a_number_is_refused() -> None:
    with pytest.raises(NumericalError, match="1 NaN"):
        exposure(torch.tensor([1.0, math.nan]), torch.tensor([0]))


@pytest.mark.parametrize("size", [1, 2, 3, 10, 1000])
def test_chance_is_the_mean_over_all_ranks(size: int) -> None:
    mean = sum(math.log2(size) - math.log2(rank) for rank in range(1, size + 1)) / size
    assert chance(size) == pytest.approx(mean, abs=1e-9)
    assert chance(10**9) == pytest.approx(CHANCE, abs=1e-6)


def test_secrets_never_seen_are_exposed_by_1_over_ln_2_bits() -> None:
    """Random canaries under random models: mean within 3 standard errors, and 2^-t of them above t."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(100):
        model = RandomModel(generator)
        found.append(exposures_of(model, FORM, FORM.draw(20, generator), generator=generator)[0])
    exposures = torch.cat(found)
    error = float(exposures.std()) / len(exposures) ** 0.5
    assert (
        abs(float(exposures.mean()) - CHANCE) < 3 * error
    )  # the gate; 512 sequences are 0.01 from the limit
    assert abs(float(exposures.mean()) - chance(FORM.size)) < 3 * error
    for bits in (1, 2, 4):
        share = float((exposures > bits).double().mean())
        assert share == pytest.approx(2**-bits, abs=4 * (2**-bits / len(exposures)) ** 0.5)


def test_a_model_that_knows_the_secret_exposes_it_fully() -> None:
    generator = torch.Generator().manual_seed(1)
    model, canary = RandomModel(generator), FORM.draw(1, generator)
    before = 0
    for now, then in pairwise(canary[0].tolist()):
        model.table[before, now, then] += 30
        before = now
    assert exposures_of(model, FORM, canary, generator=generator)[0].item() == 9.0


@pytest.mark.parametrize("shape", [-4.0, 0.0, 3.0])
def test_error_bars_of_the_fitted_tail_cover_a_known_law(shape: float) -> None:
    """Exposures of 2, 10 and 20 bits from 80 samples of 200: one law of three parameters, twice beyond what 200 values reach.

    Binomial(80, 0.95) is below 69 with chance 0.06%, which leaves 0.5% for the nine comparisons.
    """
    from scipy.stats import skewnorm

    law, bits = skewnorm(shape, loc=50, scale=7), torch.tensor([2.0, 10.0, 20.0], dtype=torch.float64)
    values = torch.from_numpy(law.ppf((2**-bits).numpy()))
    covered, alike = torch.zeros(3), 0
    for seed in range(80):
        sample = torch.from_numpy(law.rvs(200, random_state=seed))
        luck = torch.Generator().manual_seed(seed)
        fit = extrapolated_exposure(values, sample, resamples=50, generator=luck)
        covered += (fit.exposures - bits).abs() < 1.96 * fit.standard_errors
        alike += fit.p_value > 0.01
    assert bool((covered >= 69).all()), covered
    assert alike >= 75  # fitted to the sample itself, the law is hardly ever rejected


def test_far_tails_are_those_of_the_normal_law() -> None:
    from scipy.stats import norm

    sample = torch.from_numpy(norm(10, 2).rvs(5000, random_state=0))
    values = torch.tensor([10.0, 0.0, -20.0, -90.0], dtype=torch.float64)
    fit = extrapolated_exposure(values, sample, resamples=2, generator=torch.Generator().manual_seed(0))
    shape, location, scale = fit.parameters
    assert bool(torch.isfinite(fit.exposures).all())
    assert float(fit.exposures[3]) > 1000
    # The tail of the fitted law by its asymptotic series, where the skewed tail is 2 phi Phi(a z).
    z = (-90.0 - location) / scale
    log_density = math.log(2) + norm.logpdf(z) + norm.logcdf(shape * z)
    slope = -z + shape * math.exp(norm.logpdf(shape * z) - norm.logcdf(shape * z))
    assert float(fit.exposures[3]) == pytest.approx(-(log_density - math.log(slope)) / math.log(2), rel=1e-3)


def test_a_law_that_ends_abruptly() -> None:
    """Exponential log-perplexities: the fit is nearly a half-normal law, below whose end there is next to nothing."""
    sample = 5 - torch.rand(500, generator=torch.Generator().manual_seed(0), dtype=torch.float64).log()
    values = torch.tensor([6.0, 4.999, 4.9, 4.0, -100.0], dtype=torch.float64)
    fit = extrapolated_exposure(values, sample, resamples=2, generator=torch.Generator().manual_seed(0))
    assert bool(torch.isfinite(fit.exposures).all())
    assert bool((fit.exposures.diff() > 0).all())
    assert fit.p_value < 0.01


def test_a_large_format_is_extrapolated_to_what_enumeration_gives() -> None:
    generator = torch.Generator().manual_seed(0)
    form = CanaryFormat((9, *[None] * 5), tuple(range(8)))  # 32,768
    model, canaries = RandomModel(generator), form.draw(30, generator)
    exact, none = exposures_of(model, form, canaries, most=40_000, generator=generator)
    fitted, fit = exposures_of(model, form, canaries, most=1000, samples=3000, generator=generator)
    assert none is None
    assert fit is not None
    assert float((exact - fitted).abs().median()) < 0.3
    assert torch.equal(exact.argsort(), fitted.argsort())


def test_law_that_does_not_fit_is_told_by_its_p_value() -> None:
    generator = torch.Generator().manual_seed(0)
    halves = torch.cat([torch.randn(500, generator=generator), 20 + torch.randn(500, generator=generator)])
    assert extrapolated_exposure(torch.zeros(1), halves, resamples=2, generator=generator).p_value < 1e-6


@pytest.mark.parametrize("sample", [torch.arange(19.0), torch.ones(100)])
def test_samples_too_small_for_a_fit(sample: Tensor) -> None:
    with pytest.raises(SettingError, match="at least 20 different log-perplexities"):
        extrapolated_exposure(torch.zeros(1), sample, generator=torch.Generator())
