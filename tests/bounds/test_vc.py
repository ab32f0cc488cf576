"""Vapnik-Chervonenkis bounds: their arithmetic, and their 1 - delta by simulation on exact laws."""

from __future__ import annotations

import math

import pytest
import torch

from torchstone.bounds.growth import sauer_sum, sign_change_growth
from torchstone.bounds.vc import consistent_vc_bound, growth_risk_bound, vc_risk_bound
from torchstone.errors import SettingError

GRID = 40


def thresholds() -> torch.Tensor:
    """Predictions of all thresholds in both directions on a grid, (members, GRID), booleans."""
    t = torch.arange(GRID)
    up = torch.stack([t >= a for a in range(GRID + 1)])
    return torch.unique(torch.cat([up, ~up]), dim=0)


@pytest.mark.parametrize("delta", [0.05, 0.5])
@pytest.mark.parametrize("noise", [0.1, 0.5])
def test_the_bounds_hold_for_a_share_1_minus_delta_of_samples(delta: float, noise: float) -> None:
    members, n, repeats = thresholds(), 50, 1000
    assert len(members) == sign_change_growth(GRID, 1)
    clean = torch.arange(GRID) >= 15
    risks = torch.where(members == clean, noise, 1 - noise).double().mean(dim=1)
    generator = torch.Generator().manual_seed(int(100 * delta + 10 * noise))
    by_growth = growth_risk_bound(0.0, math.log(sign_change_growth(n, 1)), n, delta).value
    by_dimension = vc_risk_bound(0.0, 2, n, delta).value
    assert by_growth <= by_dimension
    worst = []
    for _ in range(repeats):
        x = torch.randint(GRID, (n,), generator=generator)
        flipped = torch.rand(n, generator=generator) < noise
        empirical = (members[:, x] != (clean[x] ^ flipped)).double().mean(dim=1)
        worst.append(float((risks - empirical).max()))
    violations = sum(each > by_growth for each in worst)
    assert violations <= delta * repeats
    assert max(worst) > 0.25 * by_growth


def test_the_consistent_bound_holds_and_has_the_faster_rate() -> None:
    members, n, repeats, delta = thresholds(), 30, 1000, 0.1
    clean = torch.arange(GRID) >= 15
    risks = (members != clean).double().mean(dim=1)
    bound = consistent_vc_bound(2, n, delta).value
    generator, violations, largest = torch.Generator().manual_seed(3), 0, 0.0
    for _ in range(repeats):
        x = torch.randint(GRID, (n,), generator=generator)
        consistent = (members[:, x] == clean[x]).all(dim=1)
        largest = max(largest, float(risks[consistent].max()))
        violations += bool((risks[consistent] > bound).any())
    assert violations <= delta * repeats
    assert largest > 0.1
    rates = [consistent_vc_bound(2, m).value / consistent_vc_bound(2, 100 * m).value for m in (10**4, 10**6)]
    assert all(60 < rate < 100 for rate in rates)
    assert 6 < vc_risk_bound(0.0, 2, 10**4).value / vc_risk_bound(0.0, 2, 10**6).value < 10


def test_parts_by_hand() -> None:
    bound = vc_risk_bound(0.25, 5, 2000, delta=0.02)
    by_hand = math.sqrt(2 * math.log(sauer_sum(2000, 5)) / 2000) + math.sqrt(math.log(50) / 4000)
    assert bound.value == pytest.approx(0.25 + by_hand, rel=1e-14)
    assert not bound.vacuous
    assert vc_risk_bound(0.0, 150_000, 1400).vacuous  # a network with more weights than examples
    assert consistent_vc_bound(1, 100, 0.5).value == pytest.approx(2 / 100 * (math.log2(201) + 2), rel=1e-14)


def test_bad_inputs_are_refused() -> None:
    with pytest.raises(SettingError, match="delta, the probability of failure"):
        vc_risk_bound(0.1, 3, 10, delta=1.0)
    with pytest.raises(SettingError, match="mean of losses"):
        vc_risk_bound(1.5, 3, 10)
    with pytest.raises(SettingError, match="log_growth must be finite and at least 0"):
        growth_risk_bound(0.1, -1.0, 10)
    with pytest.raises(SettingError, match="n must be"):
        consistent_vc_bound(3, 0)
