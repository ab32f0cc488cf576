"""Comparing sets of runs: against SciPy and enumeration, with levels and coverage by simulation."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from torchstone.bounds.churn import churn
from torchstone.bounds.detectable_difference import detectable_effect, minimal_detectable_difference
from torchstone.bounds.seed_comparison import compare_seeds, probability_of_outperforming
from torchstone.errors import NumericalError, SettingError


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(source: torch.Generator, count: int, mean: float = 0.0, spread: float = 1.0) -> Tensor:
    return mean + spread * torch.randn(count, generator=source, dtype=torch.float64)


def test_intervals_are_those_of_scipy() -> None:
    source = generator(0)
    a, b = normal(source, 6, 0.3), normal(source, 6, 0.0, 2.0)
    for paired in (False, True):
        found = compare_seeds(a, b, source, paired=paired)
        reference = stats.ttest_rel(a, b) if paired else stats.ttest_ind(a, b, equal_var=False)
        interval = reference.confidence_interval(0.95)  # pyright: ignore[reportAttributeAccessIssue]
        assert found.interval.low == pytest.approx(float(interval.low))
        assert found.interval.high == pytest.approx(float(interval.high))
        assert found.difference == pytest.approx(float(a.mean() - b.mean()))


@pytest.mark.parametrize("sizes", [(4, 5), (3, 3)])
def test_the_permutation_p_value_is_that_of_all_relabellings(sizes: tuple[int, int]) -> None:
    source = generator(1)
    a, b = normal(source, sizes[0], 1.0), normal(source, sizes[1])
    both = torch.cat([a, b])

    def statistic(rows: tuple[int, ...]) -> float:
        rest = [i for i in range(len(both)) if i not in rows]
        return abs(float(stats.ttest_ind(both[list(rows)], both[rest], equal_var=False)[0]))  # pyright: ignore[reportArgumentType]

    every = list(itertools.combinations(range(len(both)), sizes[0]))
    observed = statistic(tuple(range(sizes[0])))
    exact = sum(statistic(rows) >= observed - 1e-9 for rows in every) / len(every)
    assert compare_seeds(a, b, source).p_value == pytest.approx(exact)


def test_the_paired_p_value_is_that_of_all_sign_flips() -> None:
    source = generator(2)
    a, b = normal(source, 7, 0.7), normal(source, 7)
    flips = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=7)), dtype=torch.float64)
    exact = float(((flips @ (a - b)).abs() >= (a - b).sum().abs() - 1e-12).double().mean())
    assert compare_seeds(a, b, source, paired=True).p_value == pytest.approx(exact)


@pytest.mark.parametrize("paired", [False, True])
def test_drawn_relabellings_agree_with_scipys(paired: bool) -> None:
    source = generator(3)
    a, b = normal(source, 20, 0.5), normal(source, 20)
    found = compare_seeds(a, b, source, paired=paired).p_value
    reference = stats.ttest_rel(a, b) if paired else stats.ttest_ind(a, b, equal_var=False)
    assert found == pytest.approx(float(reference.pvalue), abs=0.02)  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("paired", [False, True])
def test_the_test_holds_its_level_and_the_interval_covers(paired: bool) -> None:
    source = generator(4)
    rejected = covered = 0
    for _ in range(400):
        shared = normal(source, 6, spread=2.0) if paired else torch.zeros(6)
        a, b = shared + normal(source, 6), shared + normal(source, 6)
        found = compare_seeds(a, b, source, paired=paired)
        rejected += found.p_value <= 0.05
        covered += 0.0 in found.interval
    error = math.sqrt(0.05 * 0.95 / 400)
    assert rejected / 400 <= 0.05 + 3 * error
    assert rejected > 0
    assert abs(covered / 400 - 0.95) <= 3 * error


def test_pairs_gain_where_runs_share_what_moves_them() -> None:
    source = generator(5)
    shared = normal(source, 8, spread=3.0)
    a, b = shared + normal(source, 8, 0.5, 0.1), shared + normal(source, 8, 0.0, 0.1)
    paired, apart = (compare_seeds(a, b, source, paired=flag) for flag in (True, False))
    assert paired.p_value < 0.01 < apart.p_value
    assert paired.detectable < 0.1 * apart.detectable
    assert paired.better()
    assert not apart.better()


@pytest.mark.parametrize("sizes", [(5, 5), (10, 6), (20, 20)])
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_the_probability_of_outperforming_is_covered(sizes: tuple[int, int], shift: float) -> None:
    source = generator(6)
    truth = float(stats.norm.cdf(shift / math.sqrt(1 + 4)))  # unequal spreads
    found = [
        probability_of_outperforming(normal(source, sizes[0], shift), normal(source, sizes[1], 0.0, 2.0))
        for _ in range(800)
    ]
    coverage = sum(truth in interval for interval in found) / 800
    assert coverage >= 0.92
    assert all(interval.low >= 0 and interval.high <= 1 for interval in found)


def test_pairs_are_binomial_and_ties_count_against_both() -> None:
    a, b = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([0.0, 2.0, 2.0, 5.0])
    interval = probability_of_outperforming(a, b, paired=True)
    low, high = stats.binomtest(2, 4).proportion_ci().low, stats.binomtest(3, 4).proportion_ci().high
    assert interval.low == pytest.approx(low)
    assert interval.high == pytest.approx(high)
    assert compare_seeds(a, b, generator(0), paired=True).outperforming == pytest.approx(2.5 / 4)


def test_sets_that_do_not_overlap_do_not_make_certainty() -> None:
    a, b = torch.tensor([1.0, 1.1, 1.2]), torch.tensor([0.0, 0.1, 0.2, 0.3])
    above, below = probability_of_outperforming(a, b), probability_of_outperforming(b, a)
    assert (above.low, above.high) == pytest.approx((0.025 ** (1 / 3), 1.0))
    assert (below.low, below.high) == pytest.approx((0.0, 1 - 0.025 ** (1 / 3)))


def test_equal_runs_differ_in_nothing() -> None:
    same = torch.full((4,), 0.5)
    for paired in (False, True):
        found = compare_seeds(same, same, generator(0), paired=paired)
        assert (found.difference, found.interval.width, found.p_value, found.detectable) == (0, 0, 1, 0)
        assert (found.outperforming, found.better()) == (0.5, False)
        assert 0.5 in found.outperforming_interval


def test_runs_without_spread_that_differ_are_told_apart_as_far_as_their_number_allows() -> None:
    found = compare_seeds(torch.full((4,), 1.0), torch.full((4,), 0.5), generator(0))
    assert found.p_value == pytest.approx(2 / 70)


# -- what could have been shown ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "runs"), [(0.2, 394), (0.5, 64), (0.8, 26), (1.0, 17)])
def test_cohens_table(size: float, runs: int) -> None:
    # Cohen 1988, table 2.4.1: the least number a group for power 0.8 at two-sided 0.05.
    assert minimal_detectable_difference(1.0, runs) <= size < minimal_detectable_difference(1.0, runs - 1)


def test_the_power_at_the_detectable_difference_is_the_one_asked_for() -> None:
    source = generator(7)
    difference = minimal_detectable_difference(2.0, 5, 7, power=0.7)
    a = 2.0 * torch.randn(20_000, 5, generator=source, dtype=torch.float64) + difference
    b = 2.0 * torch.randn(20_000, 7, generator=source, dtype=torch.float64)
    p_values = stats.ttest_ind(a, b, axis=1).pvalue  # pyright: ignore[reportAttributeAccessIssue]
    assert float((p_values <= 0.05).mean()) == pytest.approx(0.7, abs=0.012)


def test_with_many_runs_the_effect_is_the_normal_one() -> None:
    exact = stats.norm.ppf(0.975) + stats.norm.ppf(0.8)
    assert detectable_effect(1e9) == pytest.approx(exact, rel=1e-4)
    assert detectable_effect(1) > 10  # two runs of each and fewer still


def test_extreme_levels_go_over_into_the_law_of_the_spread() -> None:
    # Just below and above a critical value of 1000 in 2 degrees of freedom, on both sides of the change of formula.
    below, above = detectable_effect(2, alpha=1.01e-6), detectable_effect(2, alpha=0.99e-6)
    assert above / below == pytest.approx(math.sqrt(1.01 / 0.99), rel=1e-5)
    assert detectable_effect(2, alpha=1e-16) == math.inf


# -- churn -------------------------------------------------------------------------------------------------------------


def test_churn_is_the_share_of_pairs_that_disagree() -> None:
    predictions = torch.randint(3, (6, 40), generator=generator(8))
    pairs = [(predictions[i] != predictions[j]).double() for i, j in itertools.combinations(range(6), 2)]
    assert torch.allclose(churn(predictions), torch.stack(pairs).mean(0))


# -- misuse ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: compare_seeds(torch.ones(3), torch.ones(4), generator(0), paired=True), "equal numbers"),
        (lambda: compare_seeds(torch.ones(1), torch.ones(4), generator(0)), "at least 2 values"),
        (
            lambda: compare_seeds(torch.ones(3), torch.ones(4), generator(0), confidence=1.0),
            "strictly between",
        ),
        (lambda: minimal_detectable_difference(-1.0, 5), "spread of at least 0"),
        (lambda: minimal_detectable_difference(1.0, 1), "at least 2 runs"),
        (lambda: minimal_detectable_difference(1.0, 5, power=0.01), "alpha < power"),
        (lambda: churn(torch.zeros(1, 5).long()), "at least 2 runs"),
        (lambda: churn(torch.zeros(2, 5)), "predicted classes"),
    ],
)
def test_misuse_is_named(call: object, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        call()  # pyright: ignore[reportCallIssue]


def test_a_metric_that_is_not_finite_is_named() -> None:
    with pytest.raises(NumericalError, match="finite"):
        compare_seeds(torch.tensor([1.0, math.nan]), torch.ones(2), generator(0))
