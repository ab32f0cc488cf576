"""Expected rises under noise: closed forms on quadratics, and the coverage of the error bar."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from torchstone.errors import SettingError
from torchstone.operators.sharpness import average_sharpness


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("relative", [False, True])
def test_intervals_cover_the_exact_expectation_as_often_as_they_say(
    bowl: Any, symmetric: Any, relative: bool
) -> None:
    """sigma^2 tr(H) / 2, or sigma^2 sum theta_i^2 H_ii / 2, away from a minimum: the slope must cancel."""
    hessian = symmetric(torch.linspace(0.1, 2, 25, dtype=torch.float64))
    at = torch.randn(25, generator=seeded(4), dtype=torch.float64)
    around = bowl(hessian, at)
    weights = at.square() if relative else torch.ones_like(at)
    expected = 0.3**2 / 2 * float((weights * hessian.diagonal()).sum())
    hits, rises = 0, []
    with around.specimen.measuring():
        for seed in range(200):
            [one] = average_sharpness(around, (0.3,), relative=relative, pairs=6, generator=seeded(seed))
            low, high = one.interval()
            hits += low <= expected <= high
            rises.append(one.rise)
    assert 180 <= hits <= 199  # 190 expected; five standard deviations down, and not always
    mean, spread = torch.tensor(rises).mean(), torch.tensor(rises).std()
    assert abs(float(mean) - expected) < 4 * float(spread) / 200**0.5


def test_antithetic_pairs_make_no_error_on_a_linear_risk(bowl: Any) -> None:
    around = bowl(torch.zeros(4, 4, dtype=torch.float64), slope=torch.ones(4, dtype=torch.float64))
    [one] = average_sharpness(around, (0.5,), pairs=3, generator=seeded())
    assert one.rise == pytest.approx(0.0, abs=1e-15)
    assert one.standard_error == pytest.approx(0.0, abs=1e-15)


def test_weights_that_are_zero_do_not_count_and_lengths_are_root_mean_squares(bowl: Any) -> None:
    at = torch.tensor([1.0, 0.0, 0.0, 2.0], dtype=torch.float64)
    around = bowl(torch.eye(4, dtype=torch.float64), at)
    plain = average_sharpness(around, (0.1, 0.2), generator=seeded())
    relative = average_sharpness(around, (0.1,), relative=True, generator=seeded())
    assert [one.length for one in plain] == pytest.approx([0.2, 0.4])
    assert relative[0].length == pytest.approx(0.1 * 2**0.5)


def test_settings_that_make_no_sense_are_refused(bowl: Any) -> None:
    around = bowl(torch.eye(2))
    with pytest.raises(SettingError, match="A standard error needs two pairs or more; got 1"):
        average_sharpness(around, (0.1,), pairs=1, generator=seeded())
    with pytest.raises(SettingError, match="Noises must be positive and finite"):
        average_sharpness(around, (0.1, 0.0), generator=seeded())
