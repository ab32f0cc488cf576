"""The gap test, on spectra whose number of outliers is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from torchstone.errors import SettingError
from torchstone.linalg import OutlierCount, count_outliers


def wishart(rows: int, columns: int, spikes: int, generator: torch.Generator) -> Tensor:
    """Eigenvalues, descending, of a sample covariance; population variances 1 but for spikes beyond the transition."""
    # A spike of variance 1 + s leaves the bulk for s > sqrt(p/n) (Baik, Ben Arous & Peche 2005).
    aspect = math.sqrt(columns / rows)
    variances = torch.ones(columns, dtype=torch.float64)
    variances[:spikes] += aspect * (3.5 + 0.7 * torch.arange(spikes))
    x = torch.randn(rows, columns, generator=generator, dtype=torch.float64) * variances.sqrt()
    return torch.linalg.eigvalsh(x.T @ x / rows).flip(0)


@pytest.mark.parametrize("spikes", [0, 1, 4, 9])
@pytest.mark.parametrize(("rows", "columns"), [(400, 100), (200, 200), (800, 300)])
def test_spikes_of_a_wishart_matrix_are_counted(rows: int, columns: int, spikes: int) -> None:
    generator = torch.Generator().manual_seed(spikes)
    found = [count_outliers(wishart(rows, columns, spikes, generator), 12).count for _ in range(40)]
    assert sum(count == spikes for count in found) >= 36  # 9 of 10 at least; about 49 of 50 in long runs


def test_spikes_below_the_transition_are_not_seen() -> None:
    generator = torch.Generator().manual_seed(0)
    counts = []
    for _ in range(30):
        x = torch.randn(400, 100, generator=generator, dtype=torch.float64)
        x[:, 0] *= math.sqrt(1 + 0.5 * math.sqrt(100 / 400))
        counts.append(count_outliers(torch.linalg.eigvalsh(x.T @ x / 400).flip(0), 8).count)
    assert counts.count(0) >= 27


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("most", [5, 30])
def test_a_power_law_has_hardly_any_outliers(exponent: float, most: int) -> None:
    found = count_outliers(torch.arange(1, 60, dtype=torch.float64) ** -exponent, most)
    assert found.count <= exponent
    assert found.margin < 1.5


def test_a_matrix_of_low_rank_has_its_rank_of_outliers() -> None:
    values = torch.tensor([5.0, 4.0, 3.0, 0, 0, 0, 0, 0, 0, 0, 0])
    found = count_outliers(values, 5)
    assert (found.count, found.threshold, found.edge, found.margin) == (3, 0.0, 0.0, math.inf)
    assert found.settled


def test_equal_values_have_none() -> None:
    found = count_outliers(torch.ones(20), 10)
    assert (found.count, found.margin) == (0, 0.0)


def test_the_slope_is_fitted_where_the_edge_is() -> None:
    """Behind three outliers lambda_j = 2 - beta (j - 1)^(2/3) exactly: the threshold is 2 beta."""
    across = torch.arange(30, dtype=torch.float64) ** (2 / 3)
    values = 2 - 0.01 * across
    values[:3] += torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)
    found = count_outliers(values, 10)
    assert found.count == 3
    assert found.threshold == pytest.approx(0.02, rel=1e-9)
    assert found.edge == float(values[3])
    assert found.margin == pytest.approx(float(values[2] - values[3]) / 0.02, rel=1e-9)


def test_scale_and_shift_do_not_matter() -> None:
    values = wishart(200, 100, 4, torch.Generator().manual_seed(1))
    counts = {
        count_outliers(scale * values + shift, 12).count for scale in (1e-6, 1, 1e6) for shift in (-3, 0)
    }
    assert counts == {4}


def test_gaps_within_the_resolution_are_not_trusted() -> None:
    values = torch.tensor([2.0, 1.5, 1.0, 0.99, 0.98, 0.972, 0.964, 0.957, 0.95, 0.944, 0.938])
    assert count_outliers(values, 5).count == 2
    assert count_outliers(values, 5, resolution=0.6).count == 0


def test_rounds_that_go_in_a_circle_end_with_the_least_count() -> None:
    generator = torch.Generator().manual_seed(0)
    circles = []
    for _ in range(4000):
        values = (
            torch.rand(12, generator=generator, dtype=torch.float64).square().sort(descending=True).values
        )
        found = count_outliers(values, 7)
        if not found.settled:
            circles.append(found)
            assert found.gaps[: found.count].numel() == found.count
    assert circles, "no spectrum with a cycle was met"
    assert all(isinstance(found, OutlierCount) and 0 <= found.count <= 7 for found in circles)


@pytest.mark.parametrize(
    ("values", "most", "resolution", "message"),
    [
        (torch.ones(9), 5, 0.0, "needs most \\+ 5 = 10 eigenvalues"),
        (torch.ones(9), 0, 0.0, "most must be at least 1"),
        (torch.arange(10.0), 3, 0.0, "must be finite and descend"),
        (torch.tensor([math.nan] * 10), 3, 0.0, "must be finite and descend"),
        (torch.ones(9), 3, -1.0, "resolution must not be negative"),
    ],
)
def test_misuse_is_told(values: Tensor, most: int, resolution: float, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        count_outliers(values, most, resolution=resolution)
