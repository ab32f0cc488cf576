"""Forgetting events: sequences counted by hand and by a slow counter, never learned, ties, missing presentations."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torchstone.errors import SettingError
from torchstone.training.forgetting import count_forgetting, from_ledger, separation

NAN = math.nan


@pytest.mark.parametrize(
    ("sequence", "events", "first", "presentations"),
    [
        ((0, 0, 0, 0), 0, -1, 4),  # never learned
        ((1, 1, 1, 1), 0, 0, 4),  # right from the start
        ((0, 1, 1, 1), 0, 1, 4),  # learned once
        ((1, 0, 1, 0), 2, 0, 4),  # as often as four presentations can hold
        ((0, 1, 0, 0), 1, 1, 4),  # forgotten and not learned again
        ((1, NAN, 0, 1), 1, 0, 3),  # a missing presentation is skipped
        ((NAN, NAN, 1, NAN), 0, 0, 1),
        ((NAN, NAN, NAN, NAN), 0, -1, 0),
        ((0,), 0, -1, 1),
    ],
)
def test_sequences_by_hand(sequence: tuple[float, ...], events: int, first: int, presentations: int) -> None:
    found = count_forgetting(torch.tensor(sequence)[:, None])
    assert found.events.tolist() == [[events]]
    assert found.first_learned.tolist() == [[first]]
    assert found.learned.tolist() == [[first >= 0]]
    assert found.presentations.tolist() == [[presentations]]


@given(st.lists(st.lists(st.sampled_from([0.0, 1.0, NAN]), min_size=7, max_size=7), min_size=1, max_size=9))
def test_against_a_slow_counter(rows: list[list[float]]) -> None:
    found = count_forgetting(torch.tensor(rows))
    for i in range(7):
        seen = [row[i] for row in rows if not math.isnan(row[i])]
        events = sum(a == 1 and b == 0 for a, b in pairwise(seen))
        assert int(found.events[0, i]) == events
        assert int(found.first_learned[0, i]) == (seen.index(1) if 1 in seen else -1)
        assert events <= len(seen) // 2  # what never learned is counted beyond
        counted = float(found.counts[0, i])
        assert counted == (events if 1 in seen else len(seen) // 2 + 1)


def test_score_averages_runs_and_parts_ties_by_when_an_example_was_learned() -> None:
    first = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 0, 0], [1, 1, 1, 0.0]])
    second = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 0.0]])
    found = count_forgetting(torch.stack([first, second]))
    assert found.events.tolist() == [[0, 1, 1, 0], [0, 0, 1, 0]]
    # Never learned: 4 // 2 + 1 = 3 in both runs, and as late as 4 presentations can be.
    late = torch.tensor([0, 0, (1 + 0) / 2 / 5, 4 / 5], dtype=torch.float64) / 2
    assert torch.allclose(found.score, torch.tensor([0, 0.5, 1, 3], dtype=torch.float64) + late)
    assert found.ranking().tolist() == [0, 1, 2, 3]
    assert found.unforgettable.all(0).tolist() == [True, False, False, False]


def test_lateness_never_outweighs_an_event() -> None:
    late, forgotten = [0.0] * 9 + [1.0], [1.0, 0.0] + [1.0] * 8
    for runs in (1, 3):
        record = torch.tensor([late, forgotten]).T.expand(runs, 10, 2).clone()
        record[1:, :, 1] = 1  # forgotten once in one run only
        assert count_forgetting(record).ranking().tolist() == [0, 1]


def test_random_order_of_ties_comes_from_the_generator_and_keeps_the_rest() -> None:
    record = torch.ones(4, 50)
    record[1, :5] = 0
    draw = lambda seed: count_forgetting(record).ranking(torch.Generator().manual_seed(seed))
    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))
    assert set(draw(0)[-5:].tolist()) == set(range(5))


def test_an_example_that_was_never_presented_comes_last() -> None:
    record = torch.tensor([[NAN, 0, 1], [NAN, 0, 1]])
    found = count_forgetting(record)
    assert found.score.isnan().tolist() == [True, False, False]
    assert found.ranking().tolist() == [2, 1, 0]


def test_a_ledger_of_counts() -> None:
    found = from_ledger(torch.tensor([3, 0, -1]))
    assert found.events.tolist() == [[3, 0, 0]]
    assert found.counts.tolist() == [[3, 0, 4]]
    assert found.ranking().tolist() == [1, 0, 2]
    assert from_ledger(torch.tensor([-1, -1])).ranking().tolist() == [0, 1]


@pytest.mark.parametrize("ledger", [[], [[1.0]], [0.5], [-2.0], [NAN], [math.inf]])
def test_wrong_ledgers_are_refused(ledger: list[float]) -> None:
    with pytest.raises(SettingError, match="one whole number of events an example"):
        from_ledger(torch.tensor(ledger))


@pytest.mark.parametrize("shape", [(3,), (0, 3), (3, 0), (1, 2, 3, 4)])
def test_wrong_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(SettingError, match=r"\(T, N\) or \(K, T, N\)"):
        count_forgetting(torch.zeros(shape))


def test_other_values_are_refused() -> None:
    with pytest.raises(SettingError, match=r"got 0\.5"):
        count_forgetting(torch.tensor([[0.5, 1.0]]))


def test_separation_is_the_area_under_the_roc_curve() -> None:
    from sklearn.metrics import roc_auc_score

    generator = torch.Generator().manual_seed(0)
    for levels in (2, 5, 1000):
        scores = torch.randint(levels, (200,), generator=generator)
        positive = torch.rand(200, generator=generator) < 0.3
        assert separation(scores, positive) == pytest.approx(roc_auc_score(positive.numpy(), scores.numpy()))
    assert math.isnan(separation(scores, torch.zeros(200, dtype=torch.bool)))
