"""Covers and packings: exact integer programmes as reference, duality, volumes of balls."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from torchstone.bounds.covering import (
    Metric,
    covering_number,
    function_distances,
    greedy_cover,
    greedy_packing,
    largest_packing,
    least_cover,
)
from torchstone.bounds.covering_bounds import ball_log_cover, ball_log_cover_from_below, matrix_log_cover
from torchstone.errors import NumericalError, SettingError


def point_set(seed: int) -> Tensor:
    """Clusters, grids, heavy tails and duplicates, by turns."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(25, 3, generator=generator, dtype=torch.float64)
    match seed % 4:
        case 1:
            points = points * 0.1 + points[torch.randint(4, (25,), generator=generator)]
        case 2:
            points = points.round()
        case 3:
            points = points / torch.rand(25, 1, generator=generator, dtype=torch.float64)
    return points


@pytest.mark.parametrize("metric", ["l2", "linf"])
@pytest.mark.parametrize("seed", range(20))
def test_packing_and_covering_interlace(seed: int, metric: Metric) -> None:
    points = point_set(seed)
    distances = function_distances(points, metric)
    for quantile in (0.1, 0.3):
        r = float(distances.flatten().quantile(quantile))
        least, packing, twice = (
            least_cover(points, r, metric),
            largest_packing(points, r, metric),
            largest_packing(points, 2 * r, metric),
        )
        assert twice <= least <= packing
        cover, found = greedy_cover(points, r, metric), covering_number(points, r, metric)
        # The greedy numbers against each other and against the exact ones.
        assert len(greedy_packing(points, 2 * r, metric)) <= twice
        assert twice <= len(cover.centres) <= packing
        assert found.low <= least <= found.high == len(cover.centres)
        assert len(greedy_packing(points, r, metric)) <= packing


def test_exact_numbers_by_brute_force() -> None:
    points = point_set(0)[:8]
    near = function_distances(points) <= 0.8
    subsets = [s for k in range(1, 9) for s in itertools.combinations(range(8), k)]
    covers = min(len(s) for s in subsets if bool(near[list(s)].any(dim=0).all()))
    packings = max(len(s) for s in subsets if all(not near[a, b] for a, b in itertools.combinations(s, 2)))
    assert (least_cover(points, 0.8), largest_packing(points, 0.8)) == (covers, packings)


@pytest.mark.parametrize("metric", ["l2", "linf"])
def test_what_is_called_a_cover_is_one(metric: Metric) -> None:
    values = torch.randn(300, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for r in (0.0, 0.3, 0.9, 100.0):
        cover = greedy_cover(values, r, metric)
        centres = values[list(cover.centres)]
        gaps = (values - centres[cover.nearest]).abs()
        away = gaps.square().mean(dim=1).sqrt() if metric == "l2" else gaps.amax(dim=1)
        assert float(away.max()) == pytest.approx(cover.radius, abs=1e-12)
        assert cover.radius <= r
        packing = values[list(greedy_packing(values, r, metric))]
        for rows in (centres, packing):
            apart = function_distances(rows, metric) + torch.eye(len(rows)).double() * 1e9
            assert float(apart.min()) > r
    assert len(cover.centres) == 1


def test_a_grid_on_the_line() -> None:
    line = torch.arange(101.0)[:, None]
    assert least_cover(line, 1.0) == 34
    assert largest_packing(line, 1.0) == 51
    assert largest_packing(line, 2.0) == 34
    assert covering_number(line, 1.0).low == 34


@pytest.mark.parametrize("epsilon", [1.0, 0.7, 0.5, 0.35])
def test_greedy_covers_of_the_ball_stay_below_the_volume_bound(epsilon: float) -> None:
    generator = torch.Generator().manual_seed(2)
    points = torch.randn(3000, 3, generator=generator, dtype=torch.float64)
    radii = torch.rand(3000, 1, generator=generator, dtype=torch.float64) ** (1 / 3)
    points = points / points.norm(dim=1, keepdim=True) * radii
    size = len(greedy_cover(points * math.sqrt(3), epsilon).centres)  # empirical l2 divides by sqrt(3)
    assert size <= (1 + 2 / epsilon) ** 3
    # A cover of the sample need not cover the ball, but 3000 points fill it well: above the other volume bound.
    assert math.log(size) >= ball_log_cover_from_below(3, epsilon)


def test_ball_bounds() -> None:
    for d, epsilon in itertools.product((1, 5, 10**6), (0.01, 0.5, 0.99)):
        assert (
            ball_log_cover_from_below(d, epsilon) <= ball_log_cover(d, epsilon) <= d * math.log(3 / epsilon)
        )
        assert ball_log_cover(d, 7 * epsilon, radius=7.0) == pytest.approx(ball_log_cover(d, epsilon))
    assert ball_log_cover(4, 1.0) == ball_log_cover(4, 3.0) == ball_log_cover_from_below(4, 2.0) == 0
    # On the line both can be compared with the truth, ceil(R / epsilon) intervals.
    for epsilon in (0.9, 0.3, 0.07):
        exact = math.log(math.ceil(1 / epsilon))
        assert ball_log_cover_from_below(1, epsilon) <= exact <= ball_log_cover(1, epsilon)


def test_matrix_bound_by_hand() -> None:
    assert matrix_log_cover(10.0, 3.0, 7.0, 20, 5) == pytest.approx(19 * math.log(200))
    assert matrix_log_cover(10.0, 3.0, 30.0, 20, 5) == 0
    assert matrix_log_cover(10.0, 3.0, 29.0, 20, 5) > 0


def test_bad_inputs_are_refused() -> None:
    with pytest.raises(SettingError, match="radius must be finite and at least 0"):
        greedy_cover(torch.ones(3, 2), -1.0)
    with pytest.raises(SettingError, match='"l2" or "linf"'):
        greedy_packing(torch.ones(3, 2), 1.0, "l1")  # pyright: ignore[reportArgumentType]
    with pytest.raises(NumericalError, match="finite values"):
        covering_number(torch.tensor([[math.nan]]), 1.0)
    with pytest.raises(SettingError, match="up to 8000 functions; got 8001"):
        greedy_cover(torch.zeros(8001, 1), 1.0)
    with pytest.raises(SettingError, match="epsilon must be finite and above 0"):
        ball_log_cover(3, 0.0)
    with pytest.raises(SettingError, match="dimensions must be a whole number"):
        ball_log_cover_from_below(0, 0.1)
    with pytest.raises(SettingError, match="weight_norm must be finite"):
        matrix_log_cover(1.0, -1.0, 0.1, 3, 3)
    with pytest.raises(SettingError, match="can be squared"):
        matrix_log_cover(1e200, 1e200, 1.0, 3, 3)
