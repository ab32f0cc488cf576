"""Kendall's tau against SciPy, its interval by simulation, and the granulated score by its definition."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau
from torch import Tensor

from torchstone.bounds.rank_correlation import granulated_tau, kendall_tau, tau_interval
from torchstone.errors import NumericalError, SettingError


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def scipy_tau(x: Tensor, y: Tensor) -> float:
    result: Any = kendalltau(x.numpy(), y.numpy())
    return float(result.statistic)


@pytest.mark.parametrize("n", [2, 3, 24, 200])
@pytest.mark.parametrize("digits", [0, 1, 12])
def test_equals_scipy_to_1e_12(n: int, digits: int) -> None:
    """Rounding to whole numbers makes ties on both sides."""
    x = drawn(n, seed=n).round(decimals=digits)
    y = (0.5 * x + drawn(n, seed=n + 1)).round(decimals=digits)
    found, expected = kendall_tau(x, y), scipy_tau(x, y)
    assert (math.isnan(found) and math.isnan(expected)) or abs(found - expected) < 1e-12


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=12))
def test_equals_scipy_with_many_ties(pairs: list[tuple[int, int]]) -> None:
    x, y = (torch.tensor(column, dtype=torch.float64) for column in zip(*pairs, strict=True))
    found, expected = kendall_tau(x, y), scipy_tau(x, y)
    assert (math.isnan(found) and math.isnan(expected)) or abs(found - expected) < 1e-12


def test_ranks_alone_count() -> None:
    x, y = drawn(30), drawn(30, seed=1)
    assert kendall_tau(x.exp(), y**3) == kendall_tau(x, y)
    assert kendall_tau(x, -y) == -kendall_tau(x, y)
    assert kendall_tau(torch.tensor([1.0, math.inf, 3.0]), torch.tensor([1.0, 9.0, 2.0])) == 1
    assert math.isnan(kendall_tau(torch.ones(5), drawn(5)))


@pytest.mark.parametrize("correlation", [0.0, 0.6, -0.9])
def test_the_interval_covers_in_400_repeats(correlation: float) -> None:
    """For a Gaussian pair tau is 2 arcsin(rho) / pi."""
    truth = 2 * math.asin(correlation) / math.pi
    covered, repeats, n = 0, 400, 27
    first, second = drawn(repeats, n, seed=3), drawn(repeats, n, seed=4)
    for x, noise in zip(first, second, strict=True):
        y = correlation * x + math.sqrt(1 - correlation**2) * noise
        covered += truth in tau_interval(x, y, 0.9)
    assert 0.87 <= covered / repeats <= 0.96


def test_intervals_at_the_ends() -> None:
    x = torch.arange(30.0)
    alike, opposite = tau_interval(x, x), tau_interval(x, -x)
    assert (alike.high, opposite.low) == (1.0, -1.0)
    assert 0.4 < alike.low < 0.7
    assert opposite.high == -alike.low
    nothing = tau_interval(torch.ones(6), drawn(6))
    assert (nothing.low, nothing.high) == (-1.0, 1.0)


def test_granulated_score_is_the_mean_of_axis_taus_on_3x3x3() -> None:
    """The definition, line by line with SciPy."""
    values, targets = drawn(3, 3, 3), drawn(3, 3, 3, seed=1)
    axes = []
    for axis in range(3):
        taus = []
        for i, j in itertools.product(range(3), repeat=2):
            index: list[int | slice] = [i, j]
            index.insert(axis, slice(None))
            line = tuple(index)
            taus.append(scipy_tau(values[line], targets[line]))
        axes.append(sum(taus) / 9)
    found = granulated_tau(values, targets)
    assert found.axes == pytest.approx(axes, abs=1e-12)
    assert found.score == pytest.approx(sum(axes) / 3, abs=1e-12)


def test_one_axis_that_rules_both_scores_on_that_axis_alone() -> None:
    """Overall tau is high because one setting moves both; granulated, the other axes show nothing."""
    rows = torch.arange(4.0)[:, None].expand(4, 6)
    values, targets = 10 * rows + drawn(4, 6, seed=5), 10 * rows + drawn(4, 6, seed=6)
    found = granulated_tau(values, targets)
    across = 216 / 276  # pairs of different rows, all of which agree; the others go either way
    assert abs(kendall_tau(values.flatten(), targets.flatten()) - across) < (1 - across) / 2
    assert found.axes[0] == 1
    assert abs(found.axes[1]) < 0.5
    assert granulated_tau(rows.contiguous(), targets).axes[1] == 0  # ties count 0


def test_wrong_series_are_refused() -> None:
    for x, y in ((drawn(3), drawn(4)), (drawn(1), drawn(1)), (drawn(2, 2), drawn(2, 2))):
        with pytest.raises(SettingError, match="at least two values"):
            kendall_tau(x, y)
    with pytest.raises(NumericalError, match="Ranks need numbers"):
        kendall_tau(torch.tensor([1.0, math.nan]), drawn(2))
    with pytest.raises(SettingError, match="at least 4 values"):
        tau_interval(drawn(3), drawn(3))
    with pytest.raises(SettingError, match="confidence must lie"):
        tau_interval(drawn(9), drawn(9), 1.0)
    with pytest.raises(SettingError, match="two settings on every axis"):
        granulated_tau(drawn(3, 1), drawn(3, 1))
    with pytest.raises(SettingError, match="tables of one shape"):
        granulated_tau(drawn(3, 2), drawn(2, 3))
    with pytest.raises(NumericalError, match="Ranks need numbers"):
        granulated_tau(torch.full((2, 2), math.nan), drawn(2, 2))
