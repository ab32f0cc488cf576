"""Orbits, fixed points and cycles of maps whose attractors are known."""

import math

import pytest
import torch

from torchstone.errors import SettingError
from torchstone.memory import find_attractors, follow, nearest_stored

ROOT = 0.7390851332151607  # of cos x = x


def line(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def test_orbits_reach_the_fixed_point_of_the_cosine():
    found = follow(torch.cos, line(-3.0, 0.0, 50.0), 200, 1e-14)
    assert found.ends.flatten().tolist() == pytest.approx([ROOT] * 3, abs=1e-13)
    assert bool(found.resting.all())
    assert not bool(found.left.any())
    # The error shrinks by sin(root) = 0.674 a step.
    expected = math.log(1e-14) / math.log(math.sin(ROOT))
    assert abs(int(found.steps[0]) - expected) < 5


def test_an_orbit_that_leaves_keeps_its_last_finite_state_and_does_not_disturb_the_others():
    found = follow(lambda x: x**2, line(0.5, 3.0, -0.9), 100, 1e-12, bound=100.0)
    assert found.left.tolist() == [False, True, False]
    assert float(found.ends[1]) == 81.0
    assert found.ends[[0, 2], 0].tolist() == pytest.approx([0, 0], abs=1e-9)
    assert not bool(follow(lambda x: x / 0, line(1.0), 5, 1e-3).resting.any())


def test_steps_are_those_to_the_first_short_step_and_the_budget_without_one():
    found = follow(lambda x: x / 2, line(1.0, 8.0), 4, 0.25)
    assert found.steps.tolist() == [2, 4]
    assert found.resting.tolist() == [True, False]


def test_shares_of_two_basins_and_their_multipliers():
    starts = torch.linspace(-2, 2, 101, dtype=torch.float64)[:, None] + 0.02
    found = find_attractors(lambda x: (2 * x).tanh(), starts)
    root = float(found.found[0].points.abs())
    assert root == pytest.approx(math.tanh(2 * root), abs=1e-9)
    above = int((starts > 0).sum())
    assert [round(101 * one.share) for one in found.found] == [above, 101 - above]
    assert found.found[0].multiplier == pytest.approx(2 * (1 - root**2), abs=1e-8)
    assert torch.equal(found.membership == 0, starts[:, 0] > 0)


def test_the_cycles_of_the_logistic_map():
    starts = torch.rand(50, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for r, period in ((2.8, 1), (3.2, 2), (3.5, 4), (3.83, 3)):
        found = find_attractors(lambda x, r=r: r * x * (1 - x), starts, steps=4000)
        assert [one.period for one in found.found] == [period]
        assert found.found[0].share == 1
        assert found.found[0].multiplier < 1
        cycle = found.found[0].points
        assert torch.allclose(r * cycle * (1 - cycle), cycle.roll(-1, 0), atol=1e-6)


def test_chaos_is_no_attractor_and_leaving_is_told():
    starts = torch.rand(30, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = find_attractors(lambda x: 3.9 * x * (1 - x), starts, steps=500)
    assert found.found == ()
    assert found.membership.tolist() == [-1] * 30
    assert find_attractors(lambda x: 2 * x, line(1.0, 0.0)).left == 0.5


def test_fixed_points_on_a_cycle_s_points_stay_apart_from_it():
    """Period belongs to what is grouped: -x has cycles of period 2 and one fixed point."""
    found = find_attractors(lambda x: -x, line(0.0, 1.0, -1.0, 1e-4), merge=1e-3)
    assert sorted((one.period, round(one.share, 2)) for one in found.found) == [
        (1, 0.25),
        (2, 0.25),
        (2, 0.5),
    ]


def test_nearest_stored_picks_the_nearest_within_the_tolerance():
    stored = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    ends = torch.tensor([[0.4, 0.0], [0.6, 0.0], [0.0, 2.0], [float("inf"), 0.0]])
    assert nearest_stored(ends, stored, 0.5).tolist() == [0, 1, -1, -1]


def test_what_it_refuses():
    with pytest.raises(SettingError, match="keep the shape"):
        follow(lambda x: x[:, :1], torch.zeros(2, 2), 3, 0.1)
    with pytest.raises(SettingError, match="Iterating needs"):
        follow(torch.cos, torch.zeros(2, 2), 0, 0.1)
    with pytest.raises(SettingError, match="max_period"):
        find_attractors(torch.cos, torch.zeros(2, 2), max_period=0)
