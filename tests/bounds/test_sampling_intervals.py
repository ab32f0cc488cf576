"""Student's and bootstrap intervals: closed-form coverage on normal samples, SciPy as reference."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from torchstone.bounds.bootstrap import bootstrap_interval
from torchstone.bounds.mean import mean_interval
from torchstone.errors import NumericalError, SettingError


def test_student_interval_covers_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(1)
    samples = 3 + 2 * torch.randn(4000, 4, generator=generator, dtype=torch.float64)
    hits = np.mean([3.0 in mean_interval(sample, 0.9) for sample in samples])
    assert abs(hits - 0.9) < 3 * math.sqrt(0.09 / 4000)


def test_student_interval_agrees_with_scipy() -> None:
    values = torch.tensor([1.0, 4.0, 2.5, 1e6], dtype=torch.float32)
    low, high = stats.t.interval(0.99, 3, values.double().mean(), stats.sem(values.double().numpy()))
    interval = mean_interval(values, 0.99)
    assert (interval.low, interval.high) == pytest.approx((float(low), float(high)), rel=1e-12)


def test_percentile_bootstrap_of_a_mean_covers_as_theory_says() -> None:
    # For normal values the resampled mean is nearly N(mean, (n-1)/n s^2/n): coverage is a t probability, below 95%.
    generator = torch.Generator().manual_seed(2)
    n, repeats = 20, 1000
    expected = 2 * stats.t.cdf(stats.norm.ppf(0.975) * math.sqrt((n - 1) / n), n - 1) - 1
    mean = lambda values: values.mean()
    hits = 0
    for _ in range(repeats):
        values = torch.randn(n, generator=generator, dtype=torch.float64)
        hits += 0.0 in bootstrap_interval(values, mean, generator, resamples=200, method="percentile")
    # Quantiles of 200 resamples are themselves noisy; that costs about half a percent of coverage.
    assert abs(hits / repeats - expected) < 3 * math.sqrt(expected * (1 - expected) / repeats) + 0.006


def test_bca_bootstrap_covers_a_skewed_mean_better_than_percentiles() -> None:
    generator = torch.Generator().manual_seed(3)
    hits = {"bca": 0, "percentile": 0}
    above = {"bca": 0, "percentile": 0}
    repeats = 300
    for seed in range(repeats):
        values = torch.empty(40, dtype=torch.float64).exponential_(1.0, generator=generator)
        for method in (
            "bca",
            "percentile",
        ):  # from the same resamples, so that their ends are compared in pairs
            same = torch.Generator().manual_seed(seed)
            interval = bootstrap_interval(values, torch.mean, same, resamples=400, method=method)
            hits[method] += 1.0 in interval
            above[method] += interval.high < 1.0
    # Expected error of second order at n = 40: about 2%.
    assert hits["bca"] / repeats > 0.95 - 0.02 - 3 * math.sqrt(0.05 * 0.95 / repeats)
    # A right-skewed law makes percentile intervals miss on the high side; BCa moves both ends up.
    assert above["bca"] < above["percentile"]


def test_bca_agrees_with_scipy() -> None:
    generator = torch.Generator().manual_seed(4)
    values = torch.empty(60, dtype=torch.float64).exponential_(1.0, generator=generator)
    ours = bootstrap_interval(values, lambda v: v.std() / v.mean(), generator, resamples=20_000)
    theirs = stats.bootstrap(
        (values.numpy(),),
        lambda v, axis: v.std(axis=axis, ddof=1) / v.mean(axis=axis),
        n_resamples=20_000,
        method="BCa",
        rng=np.random.default_rng(0),
    ).confidence_interval
    # Two sets of 20,000 resamples: each end has a Monte-Carlo error of about 1% of the width.
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.04 * ours.width)


def test_bootstrap_is_reproducible_and_leaves_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    values = torch.arange(10.0)
    first, second = (
        bootstrap_interval(values, torch.median, torch.Generator().manual_seed(5), resamples=100)
        for _ in range(2)
    )
    assert first == second
    assert torch.equal(state, torch.get_rng_state())


def test_bootstrap_resamples_rows_together() -> None:
    pairs = torch.stack([torch.arange(30.0), 2 * torch.arange(30.0)], dim=1).double()
    slope = lambda rows: (rows[:, 0] @ rows[:, 1]) / rows[:, 0].square().sum()
    interval = bootstrap_interval(pairs, slope, torch.Generator().manual_seed(6), resamples=100)
    assert (interval.low, interval.high) == pytest.approx((2.0, 2.0), rel=1e-12)


def test_constant_samples_give_a_point() -> None:
    interval = bootstrap_interval(torch.ones(8), torch.mean, torch.Generator().manual_seed(7), resamples=100)
    assert (interval.low, interval.high) == (1.0, 1.0)
    assert mean_interval(torch.ones(8)).width == 0.0


def test_bad_samples_are_refused() -> None:
    generator = torch.Generator().manual_seed(8)
    with pytest.raises(SettingError, match="at least 2 values"):
        mean_interval(torch.ones(1))
    with pytest.raises(SettingError, match="one-dimensional"):
        mean_interval(torch.ones(3, 2))
    with pytest.raises(NumericalError, match="1 of 3 are NaN"):
        mean_interval(torch.tensor([1.0, math.nan, 2.0]))
    with pytest.raises(SettingError, match="at least 2 examples"):
        bootstrap_interval(torch.ones(1), torch.mean, generator)
    with pytest.raises(SettingError, match="one resample in each tail"):
        bootstrap_interval(torch.ones(5), torch.mean, generator, resamples=30)
    with pytest.raises(SettingError, match="percentile"):
        bootstrap_interval(torch.ones(5), torch.mean, generator, method="basic")  # pyright: ignore[reportArgumentType]
    with pytest.raises(NumericalError, match="finite on every resample"):
        bootstrap_interval(torch.tensor([0.0, 1.0]), lambda v: 1 / v.std(), generator, resamples=100)
