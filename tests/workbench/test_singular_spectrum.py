"""Spectra of maps: exact ones against NumPy, estimates against their expectation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from torchstone.linalg import as_linear_map
from torchstone.workbench.singular_spectrum import singular_spectrum


def matrix(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (1, 7), (6, 6)])
def test_exact_against_numpy(shape: tuple[int, int]) -> None:
    A = matrix(*shape)
    found = singular_spectrum(as_linear_map(A), dense=100, generator=torch.Generator())
    squared = np.linalg.svd(A.numpy(), compute_uv=False) ** 2
    assert found.mean == pytest.approx(squared.mean())
    assert found.spread == pytest.approx(squared.var() / squared.mean() ** 2)
    assert found.effective == pytest.approx(squared.sum() ** 2 / (squared**2).sum())
    assert found.condition == pytest.approx(math.sqrt(squared[0] / squared[-1]))
    assert found.exact


def test_an_isometry_has_no_spread_and_rank_one_all_of_it() -> None:
    Q = torch.linalg.qr(matrix(12, 12)).Q
    found = singular_spectrum(as_linear_map(Q), dense=12, generator=torch.Generator())
    assert found.spread < 1e-28
    assert found.effective == pytest.approx(12)
    rank_one = torch.outer(torch.arange(1.0, 9.0), torch.ones(8)).double()
    found = singular_spectrum(as_linear_map(rank_one), dense=12, generator=torch.Generator())
    assert found.spread == pytest.approx(7)
    assert found.effective == pytest.approx(1)
    assert found.condition == math.inf


@pytest.mark.parametrize("scale", [0.0, 1e-200, 1e200])
def test_sizes_at_the_edges(scale: float) -> None:
    found = singular_spectrum(as_linear_map(scale * matrix(4, 4)), dense=12, generator=torch.Generator())
    if scale == 0:
        assert math.isnan(found.spread)
        assert found.condition == math.inf
    else:
        expected = singular_spectrum(as_linear_map(matrix(4, 4)), dense=12, generator=torch.Generator())
        assert found.spread == pytest.approx(expected.spread)
        assert found.condition == pytest.approx(expected.condition)


@pytest.mark.parametrize("shape", [(300, 200), (200, 300)])
def test_estimates_have_the_exact_numbers_as_expectation(shape: tuple[int, int]) -> None:
    """Mean of 40 estimates within four standard errors, and ends inside the true ones."""
    A = matrix(*shape) * torch.logspace(0, -1, shape[1], dtype=torch.float64)
    exact = singular_spectrum(as_linear_map(A), dense=1000, generator=torch.Generator())
    found = [
        singular_spectrum(as_linear_map(A), dense=10, generator=torch.Generator().manual_seed(seed))
        for seed in range(40)
    ]
    for name in ("mean", "spread"):
        draws = torch.tensor([getattr(one, name) for one in found], dtype=torch.float64)
        error = float(draws.std()) / 40**0.5
        assert abs(float(draws.mean()) - getattr(exact, name)) < 4 * error, name
        assert error < 0.05 * getattr(exact, name), name
    for one in found:
        assert not one.exact
        assert exact.smallest <= one.smallest
        assert one.largest <= exact.largest * (1 + 1e-12)
        assert one.largest > 0.9 * exact.largest
        assert one.condition <= exact.condition
