"""PAC-Bayes bounds: their lemma, how they imply each other, and their coverage in 300 repeats of two experiments."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.stats import binom
from torch import Tensor

from torchstone.bounds.binary_kl import kl_inverse_upper
from torchstone.bounds.gaussian_kl import gaussian_kl
from torchstone.bounds.pac_bayes import (
    PacBayesBound,
    catoni,
    catoni_grid,
    mcallester,
    pac_bayes_kl,
    quadratic,
)
from torchstone.bounds.prior_grid import PriorGrid
from torchstone.errors import SettingError

FORMS: tuple[Callable[[float, float, int, float], PacBayesBound], ...] = (
    pac_bayes_kl,
    mcallester,
    quadratic,
    catoni_grid,
)
CASES = [(r, d, n) for r in (0.0, 0.02, 0.3, 1.0) for d in (0.0, 3.0, 400.0) for n in (1, 50, 60_000)]
REPEATS, DELTA = 300, 0.1


@pytest.mark.parametrize("n", [*range(1, 40), 100, 1000, 20_000])
def test_the_exponential_moment_is_below_two_root_n(n: int) -> None:
    """xi(n) = sum_k C(n, k) (k/n)^k (1 - k/n)^(n-k); the proof needs it, also where n is below Maurer's 8."""
    moment = sum(binom.pmf(k, n, k / n) for k in range(n + 1))
    assert moment <= 2 * math.sqrt(n) * (1 + 1e-12)
    assert n < 8 or moment >= math.sqrt(n)


@pytest.mark.parametrize(("risk", "divergence", "n"), CASES)
def test_the_weaker_forms_follow_from_the_kl_form(risk: float, divergence: float, n: int) -> None:
    tight = pac_bayes_kl(risk, divergence, n, 0.05).value
    assert risk <= tight <= 1
    assert mcallester(risk, divergence, n, 0.05).value >= tight - 1e-12
    assert quadratic(risk, divergence, n, 0.05).value >= tight - 1e-12


def test_values_written_out() -> None:
    price = (12.0 + math.log(2 * math.sqrt(500) / 0.05)) / 500
    assert mcallester(0.1, 12.0, 500).value == pytest.approx(0.1 + math.sqrt(price / 2), rel=1e-14)
    root = math.sqrt(0.1 + price / 2) + math.sqrt(price / 2)
    assert quadratic(0.1, 12.0, 500).value == pytest.approx(root**2, rel=1e-14)
    inner = 2 * 0.1 + (12.0 + math.log(20)) / 500
    expected = (1 - math.exp(-inner)) / (1 - math.exp(-2))
    assert catoni(0.1, 12.0, 500, strength=2.0).value == pytest.approx(expected, rel=1e-13)
    assert mcallester(0.9, 1e4, 500).vacuous
    assert not mcallester(0.1, 12.0, 500).vacuous
    assert mcallester(0.9, 1e4, 500).value > 1  # given as it is


@pytest.mark.parametrize("risk", [0.0, 0.04, 0.4])
@pytest.mark.parametrize("divergence", [0.5, 60.0])
def test_catoni_at_its_best_strength_is_a_kl_form(risk: float, divergence: float) -> None:
    """inf_C of Catoni's bound inverts the kl with ln(1/delta) in place of ln(2 sqrt n / delta) (Germain et al. 2009)."""
    n = 300
    best: Any = minimize_scalar(
        lambda log_c: catoni(risk, divergence, n, math.exp(log_c)).value,
        bounds=(-12, 5),
        method="bounded",
        options={"xatol": 1e-10},
    )
    expected = kl_inverse_upper(risk, (divergence + math.log(20)) / n)
    assert best.fun == pytest.approx(expected, rel=1e-6)
    assert catoni_grid(risk, divergence, n).value >= expected - 1e-12


@pytest.mark.parametrize("form", FORMS)
def test_more_divergence_less_data_and_less_risk_of_failure_cost(form) -> None:
    here = form(0.1, 10.0, 1000, 0.05).value
    assert form(0.1, 11.0, 1000, 0.05).value > here
    assert form(0.2, 10.0, 1000, 0.05).value > here
    assert form(0.1, 10.0, 900, 0.05).value > here
    assert form(0.1, 10.0, 1000, 0.04).value > here
    assert form(0.1, math.inf, 1000, 0.05).value >= 1 - 1e-12


# -- coverage: linear classifiers with a Gaussian posterior, where both risks are known ----------------------------

DIMENSION, NOISE = 5, 0.15
TEACHER = torch.tensor([1.0, -2.0, 0.5, 0.0, 0.0], dtype=torch.float64)


def drawn(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.fixture(scope="module")
def repeats() -> list[tuple[float, float, float, int, float]]:
    """300 samples: empirical risk of Q = N(w, s^2 I) exactly, true risk, divergence, n, and what is left of delta.

    w is fitted to the sample, and the prior's variance is chosen from the grid after seeing it.
    """
    generator, n, std = torch.Generator().manual_seed(0), 80, 0.1
    grid, found = PriorGrid(largest=1.0, precision=20), []
    for _ in range(REPEATS):
        x = drawn(generator, n + 4000, DIMENSION)
        flipped = torch.rand(len(x), generator=generator, dtype=torch.float64) < NOISE
        y = torch.sign(x @ TEACHER) * torch.where(flipped, -1.0, 1.0).double()
        w = torch.linalg.lstsq(x[:n], y[:n, None]).solution[:, 0]
        # P(y w'x < 0) for a random w; the fresh examples give the true risk.
        losses = torch.special.ndtr(-y * (x @ w) / (std * x.norm(dim=1)))
        j = grid.best(float(w.square().sum()) + DIMENSION * std**2, DIMENSION)
        scale = torch.full_like(w, math.sqrt(grid.variance(j)))
        divergence = float(gaussian_kl(w, torch.full_like(w, std), torch.zeros_like(w), scale))
        found.append(
            (float(losses[:n].mean()), float(losses[n:].mean()), divergence, n, grid.delta(j, DELTA))
        )
    return found


@pytest.mark.parametrize("form", FORMS)
def test_coverage_with_a_gaussian_posterior_in_300_repeats(form, repeats) -> None:
    bounds = [form(empirical, divergence, n, delta).value for empirical, _, divergence, n, delta in repeats]
    covered = sum(true <= bound for bound, (_, true, *_) in zip(bounds, repeats, strict=True))
    assert len(repeats) == 300
    assert covered >= (1 - DELTA) * REPEATS
    assert 0.2 < sum(bounds) / REPEATS < 1  # and it says something


# -- coverage where it is needed: many predictors that only seem to work -------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_coverage_of_the_luckiest_predictor_in_300_repeats(form) -> None:
    """A uniform prior over M = 10^6 coin tosses and a posterior on the luckiest: the divergence ln M pays for the luck."""
    generator, n, predictors = torch.Generator().manual_seed(1), 60, 10**6
    uniform = torch.rand(REPEATS, generator=generator, dtype=torch.float64).numpy()
    luckiest = binom.ppf(-np.expm1(np.log1p(-uniform) / predictors), n, 0.5) / n  # the law of a minimum
    with_price = sum(form(risk, math.log(predictors), n, DELTA).value >= 0.5 for risk in luckiest)
    without = sum(form(risk, 0.0, n, DELTA).value >= 0.5 for risk in luckiest)
    assert with_price >= (1 - DELTA) * REPEATS
    assert without < (1 - DELTA) * REPEATS  # the same without the divergence is no bound


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-0.1, 1.0, 10, 0.05), r"lie in \[0, largest_loss\]"),
        ((1.1, 1.0, 10, 0.05), r"lie in \[0, largest_loss\]"),
        ((math.nan, 1.0, 10, 0.05), r"lie in \[0, largest_loss\]"),
        ((0.1, -1.0, 10, 0.05), "divergence must be finite and at least 0"),
        ((0.1, math.nan, 10, 0.05), "divergence must be finite and at least 0"),
        ((0.1, 1.0, 0, 0.05), "n must be a whole number of at least 1"),
        ((0.1, 1.0, 10, 0.0), "delta, the probability of failure"),
        ((0.1, 1.0, 10, 1.0), "delta, the probability of failure"),
    ],
)
def test_impossible_numbers_are_refused(
    form, arguments: tuple[float, float, int, float], message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        form(*arguments)


def test_strengths_are_checked() -> None:
    with pytest.raises(SettingError, match="strength must be finite and above 0"):
        catoni(0.1, 1.0, 10, strength=0.0)
    with pytest.raises(SettingError, match="number of strengths must be a whole number of at least 1"):
        catoni_grid(0.1, 1.0, 10, strengths=())
