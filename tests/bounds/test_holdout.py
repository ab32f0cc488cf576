"""Holdout intervals: exact forms, coverage under reuse by an analyst who fits the holdout, and limits."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from torchstone.bounds.holdout import holdout_estimate, looks_that_fit
from torchstone.bounds.proportion import clopper_pearson, hoeffding
from torchstone.errors import NumericalError, SettingError


def errors(count: int, of: int) -> torch.Tensor:
    return (torch.arange(of) < count).double()


def test_a_first_look_is_the_exact_interval() -> None:
    found = holdout_estimate(errors(7, 120))
    expected = clopper_pearson(7, 120)
    assert (found.interval.low, found.interval.high) == (expected.low, expected.high)
    assert found.warning == ""
    losses = torch.linspace(0, 2, 50)
    real = holdout_estimate(losses, 0.9, largest_loss=2.0)
    expected = hoeffding(1.0, 50, 0.9, (0.0, 2.0))
    assert (real.interval.low, real.interval.high) == pytest.approx((expected.low, expected.high))


def test_looks_fixed_beforehand_are_bonferroni() -> None:
    found = holdout_estimate(errors(7, 120), looks=5, adaptive=False)
    expected = clopper_pearson(7, 120, 1 - 0.05 / 5)
    assert found.interval.low == pytest.approx(expected.low)
    assert found.interval.high == pytest.approx(expected.high)
    assert found.interval.confidence == 0.95
    assert "fixed beforehand" in found.warning


def test_adaptive_looks_count_transcripts() -> None:
    n, r, k = 400, 5, 3
    networks = 1 + r + r**2
    found = holdout_estimate(errors(40, n), looks=k, answers=r)
    expected = clopper_pearson(40, n, 1 - 0.05 / networks)
    assert found.interval.high == pytest.approx(expected.high, rel=1e-9)
    many = holdout_estimate(errors(40, n), looks=40, answers=r)
    half = math.sqrt((math.log(2 / 0.05) + math.log((r**40 - 1) / (r - 1))) / (2 * n))
    assert many.interval.high == pytest.approx(0.1 + half, rel=1e-9)
    assert "40 times" in many.warning


def test_the_interval_widens_with_every_look() -> None:
    widths = [holdout_estimate(errors(40, 400), looks=k, answers=3).interval.width for k in range(1, 60)]
    assert all(a <= b + 1e-12 for a, b in itertools.pairwise(widths))


def test_an_analyst_who_climbs_the_leaderboard_fools_the_fresh_interval_only() -> None:
    """Random labels, k random classifiers, majority vote of those that did better than chance on the holdout."""
    generator = torch.Generator().manual_seed(0)
    n, looks, runs = 200, 41, 60
    fooled = covered = 0
    for _ in range(runs):
        wrong = torch.rand(looks - 1, n, generator=generator) < 0.5
        # Answers are one bit each: better than chance or not.
        good = wrong.double().mean(1) < 0.5
        votes = torch.where(good[:, None], wrong, ~wrong).double().mean(0)
        final = (votes > 0.5).double() + 0.0
        estimate = holdout_estimate(final, looks=looks, answers=2)
        fooled += 0.5 not in estimate.fresh
        covered += 0.5 in estimate.interval
    assert fooled > 0.9 * runs  # the true error is 1/2
    assert covered == runs


def test_how_many_looks_fit() -> None:
    for n, half, answers in ((10_000, 0.05, 10), (10_000, 0.05, None), (1000, 0.1, 2)):
        looks = looks_that_fit(n, half, answers=answers)
        r = n + 1 if answers is None else answers
        need = lambda k, r=r, n=n: math.sqrt((math.log(40) + math.log((r**k - 1) // (r - 1))) / (2 * n))
        assert need(looks) <= half < need(looks + 1)
    assert looks_that_fit(10, 0.01) == 0


def test_mistakes() -> None:
    with pytest.raises(SettingError, match="largest_loss"):
        holdout_estimate(torch.tensor([0.5, 1.5]))
    with pytest.raises(SettingError, match="sample of at least 1"):
        holdout_estimate(torch.zeros(0))
    with pytest.raises(NumericalError, match="finite"):
        holdout_estimate(torch.tensor([math.nan]))
    with pytest.raises(SettingError, match="looks"):
        holdout_estimate(torch.zeros(5), looks=0)
    with pytest.raises(SettingError, match="answers"):
        holdout_estimate(torch.zeros(5), answers=1)
    with pytest.raises(SettingError, match="half_width"):
        looks_that_fit(5, 0.0)
