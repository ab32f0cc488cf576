"""Leave-out scores against loops, against known accuracies by simulation, and the design of the subsets."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from torchstone.errors import SettingError
from torchstone.training.memorization import (
    balanced_subsets,
    chance_of_pairs,
    influence,
    memorization,
)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(members: int = 12, count: int = 9, tests: int = 5, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = seeded(seed)
    included = torch.zeros(members, count, dtype=torch.bool)
    included.scatter_(1, balanced_subsets(count, members, 0.67, generator), True)
    return (
        included,
        torch.randint(2, (members, count), generator=generator),
        torch.randint(2, (members, tests), generator=generator),
    )


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.7, 0.93])
@pytest.mark.parametrize("members", [1, 2, 7, 24])
def test_subsets_are_of_one_size_without_repeats_and_leave_out_equally_often(members, share):
    count = 43
    rows = balanced_subsets(count, members, share, seeded(members))
    assert rows.shape == (members, round(share * count))
    assert bool((rows.diff(dim=1) > 0).all())
    held = torch.bincount(rows.flatten(), minlength=count)
    assert int(held.max() - held.min()) <= 1


def test_each_subset_is_uniform_also_across_rounds():
    """Every pair of examples is left out by the third member, which straddles two rounds, equally often."""
    generator, trials, count = seeded(0), 6000, 5
    together = torch.zeros(count, count)
    for _ in range(trials):
        out = torch.ones(count)
        out[balanced_subsets(count, 3, 0.6, generator)[2]] = 0
        together += out[:, None] * out
    pairs = together[*torch.triu_indices(count, count, 1)]
    expected = trials / 10
    statistic = float(((pairs - expected) ** 2 / expected).sum())
    assert statistic < 27.9  # chi square with 9 degrees of freedom, 0.1%


def test_scores_are_the_two_groups_accuracies():
    included, correct, test_correct = drawn()
    found, pairs = memorization(correct, included), influence(test_correct, included)
    for i in range(9):
        held = included[:, i]
        mean = lambda values: float(values.double().mean())
        assert found.score[i] == pytest.approx(mean(correct[held, i]) - mean(correct[~held, i]))
        assert (int(found.held[i]), int(found.left_out[i])) == (int(held.sum()), int((~held).sum()))
        for j in range(5):
            expected = mean(test_correct[held, j]) - mean(test_correct[~held, j])
            assert pairs.score[i, j] == pytest.approx(expected)


def test_influence_on_oneself_is_memorization():
    included, correct, _ = drawn(seed=3)
    own, all_pairs = memorization(correct, included), influence(correct, included)
    assert torch.allclose(own.score, all_pairs.score.diagonal())
    assert torch.allclose(own.standard_error, all_pairs.standard_error.diagonal())
    assert torch.equal(own.held, all_pairs.held)


@pytest.mark.parametrize(("inside", "outside"), [(1.0, 0.0), (0.98, 0.9), (0.7, 0.4), (0.5, 0.5)])
@pytest.mark.parametrize("members", [24, 80])
def test_unbiased_and_the_error_bar_covers(inside, outside, members):
    """Example i is right with one probability where it was held and another where it was not."""
    generator, count = seeded(1), 4000
    included = torch.zeros(members, count, dtype=torch.bool)
    included.scatter_(1, balanced_subsets(count, members, 0.7, generator), True)
    chance = torch.where(included, inside, outside)
    correct = torch.rand(members, count, generator=generator) < chance
    found, truth = memorization(correct, included), inside - outside
    spread = math.sqrt(inside * (1 - inside) / (0.7 * members) + outside * (1 - outside) / (0.3 * members))
    assert float(found.score.mean()) == pytest.approx(truth, abs=4 * spread / count**0.5 + 1e-12)
    covered = float(((found.score - truth).abs() <= 1.96 * found.standard_error).double().mean())
    assert covered >= 0.93  # conservative near 0 and 1
    assert float(found.standard_error.min()) > 0


def test_an_example_that_all_or_none_held_has_no_score():
    included = torch.tensor([[True, False, True], [True, False, False]])
    found = memorization(torch.ones(2, 3), included)
    assert found.score[:2].isnan().all()
    assert found.standard_error[:2].tolist() == [math.inf, math.inf]
    assert found.score[2] == 0.0


def test_planted_influence_stands_out_and_chance_is_known():
    included, _, _ = drawn(members=60, count=30)
    generator = seeded(2)
    correct = torch.rand(60, 40, generator=generator) < 0.6
    correct[:, 7] = included[:, 11]
    scores = influence(correct, included).score
    assert scores[11, 7] == 1.0
    assert int((scores > 0.99).sum()) == 1
    found = chance_of_pairs(correct, included, 0.99, generator)
    assert (found.found, found.most_by_chance) == (1, 0)
    assert found.false_share == 0.0


def test_chance_of_pairs_is_right_where_nobody_influences_anybody():
    """Over data sets without influence the number found equals the number by chance in the mean."""
    ratios, generator = [], seeded(4)
    for seed in range(40):
        included, _, _ = drawn(members=20, count=50, seed=seed)
        correct = torch.rand(20, 50, generator=generator) < 0.5
        found = chance_of_pairs(correct, included, 0.4, generator)
        assert found.most_by_chance >= found.by_chance
        ratios.append(found.found - found.by_chance)
    differences = torch.tensor(ratios)
    assert abs(float(differences.mean())) < 3 * float(differences.std()) / 40**0.5


def test_no_pair_found_has_no_false_share():
    included, _, correct = drawn()
    assert math.isnan(chance_of_pairs(correct, included, 1.01, seeded(0)).false_share)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: balanced_subsets(10, 4, 1.0, seeded(0)), "share must leave some of 10 examples"),
        (lambda: balanced_subsets(10, 4, 0.0, seeded(0)), "share must leave some"),
        (lambda: balanced_subsets(10, 4, math.nan, seeded(0)), "share must leave some"),
        (lambda: balanced_subsets(10, 0, 0.5, seeded(0)), "at least one member"),
        (lambda: memorization(torch.ones(3, 4), torch.ones(2, 4, dtype=torch.bool)), "correct must have shape"),
        (lambda: memorization(torch.ones(3, 4), torch.ones(3, 5, dtype=torch.bool)), "correct must have shape"),
        (lambda: memorization(torch.ones(3, 4), torch.ones(3, 4)), "of torch.float32"),
        (lambda: influence(torch.full((2, 3), 1.5), torch.ones(2, 4, dtype=torch.bool)), "numbers from 0 to 1"),
        (lambda: influence(torch.full((2, 3), math.nan), torch.ones(2, 4, dtype=torch.bool)), "from 0 to 1"),
        (lambda: chance_of_pairs(torch.ones(2, 3), torch.ones(2, 4, dtype=torch.bool), 0.5, seeded(0), 0), "permutations"),
    ],
)  # fmt: skip
def test_mistakes_are_named(call, message):
    with pytest.raises(SettingError, match=message):
        call()
