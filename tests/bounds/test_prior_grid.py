"""Grids of prior variances: their shares add up, and their best place is the one that brute force finds."""

from __future__ import annotations

import math

import pytest
import torch

from torchstone.bounds.gaussian_kl import gaussian_kl
from torchstone.bounds.prior_grid import CentredGrid, PriorGrid
from torchstone.errors import SettingError


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_shares_add_up_to_delta() -> None:
    one_sided, two_sided = PriorGrid(), CentredGrid(0.3)
    assert sum(one_sided.delta(j, 0.1) for j in range(1, 20_001)) == pytest.approx(0.1, rel=1e-4)
    assert sum(two_sided.delta(j, 0.1) for j in range(-20_000, 20_001)) == pytest.approx(0.1, rel=1e-4)
    assert sum(two_sided.delta(j, 0.1) for j in range(-20_000, 20_001)) <= 0.1
    assert two_sided.delta(0, 0.1) == pytest.approx(0.1 / 3, rel=1e-12)
    assert one_sided.variance(100) == pytest.approx(0.1 / math.e, rel=1e-12)
    assert two_sided.variance(-100) == pytest.approx(0.3 / math.e, rel=1e-12)


@pytest.mark.parametrize("scale", [1e-6, 0.003, 0.2, 50.0])
@pytest.mark.parametrize("coordinates", [3, 4000])
@pytest.mark.parametrize("two_sided", [False, True])
def test_best_place_by_brute_force(scale: float, coordinates: int, two_sided: bool) -> None:
    grid = CentredGrid(0.02, precision=10) if two_sided else PriorGrid(largest=0.5, precision=10)
    mean, std = scale * drawn(coordinates), scale * drawn(coordinates, seed=1).exp()
    zero = torch.zeros_like(mean)

    def price(j: int) -> float:
        prior = torch.full_like(mean, math.sqrt(grid.variance(j)))
        return float(gaussian_kl(mean, std, zero, prior)) - math.log(grid.delta(j, 0.05))

    spread = float((mean.square() + std.square()).sum())
    best = grid.best(spread, coordinates)
    assert best == min(range(-400 if two_sided else 1, 401), key=price)
    free = spread / coordinates  # without the grid
    if coordinates == 4000 and (two_sided or free < 0.4):
        assert grid.variance(best) == pytest.approx(free, rel=0.06)


def test_settings_are_checked() -> None:
    with pytest.raises(SettingError, match="largest must be finite and above 0"):
        PriorGrid(largest=0.0)
    with pytest.raises(SettingError, match="guess must be finite and above 0"):
        CentredGrid(math.inf)
    for kind in (PriorGrid, CentredGrid):
        with pytest.raises(SettingError, match="precision must be a whole number"):
            kind(0.1, precision=0)
        with pytest.raises(SettingError, match="spread must be finite and at least 0"):
            kind(0.1).best(math.nan, 3)
        with pytest.raises(SettingError, match="coordinates must be a whole number"):
            kind(0.1).best(1.0, 0)
        with pytest.raises(SettingError, match="delta, the probability of failure"):
            kind(0.1).delta(1, 0.0)
    with pytest.raises(SettingError, match="index must be a whole number of at least 1"):
        PriorGrid().variance(0)
