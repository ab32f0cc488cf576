"""Keskar's box: closed forms, enumeration of corners, subspaces."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from torchstone.errors import SettingError
from torchstone.operators.sharpness import keskar_sharpness


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("epsilon", [1e-3, 5e-4, 0.1])
def test_of_a_diagonal_bowl_it_is_half_epsilon_squared_times_the_trace(bowl: Any, epsilon: float) -> None:
    values = torch.tensor([5.0, 4.0, 1.0, 0.3, 0.0, 1e-3], dtype=torch.float64)
    found = keskar_sharpness(bowl(torch.diag(values)), epsilon, generator=seeded())
    assert found.rise == pytest.approx(epsilon**2 * float(values.sum()) / 2, rel=1e-6)
    assert found.phi == pytest.approx(100 * epsilon**2 * float(values.sum()) / 2, rel=1e-6)
    assert found.gap == pytest.approx(0.0, abs=1e-12)


def test_negative_eigenvalues_of_a_diagonal_add_nothing(bowl: Any) -> None:
    values = torch.tensor([2.0, -3.0, 1.0, -0.5], dtype=torch.float64)
    found = keskar_sharpness(bowl(torch.diag(values)), 0.1, evaluations=60, generator=seeded())
    assert found.rise == pytest.approx(0.1**2 * 3.0 / 2, rel=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_of_any_bowl_it_is_the_best_corner(bowl: Any, symmetric: Any, seed: int) -> None:
    values = torch.linspace(0, 3, 9, dtype=torch.float64)
    hessian = symmetric(values, seed)
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=9)), dtype=torch.float64)
    expected = 0.01**2 / 2 * float(((signs @ hessian) * signs).sum(1).max())
    found = keskar_sharpness(bowl(hessian), 0.01, restarts=30, generator=seeded(seed))
    assert found.rise == pytest.approx(expected, rel=1e-9)
    assert all(rise <= expected * (1 + 1e-12) for rise in found.by_start)


def test_the_box_is_wider_for_larger_weights(bowl: Any) -> None:
    """A linear risk b'theta: the maximum is eps sum |b_i| (|theta_i| + 1)."""
    at = torch.tensor([3.0, -1.0, 0.0], dtype=torch.float64)
    slope = torch.tensor([1.0, 2.0, -4.0], dtype=torch.float64)
    around = bowl(torch.zeros(3, 3, dtype=torch.float64), at, slope)
    found = keskar_sharpness(around, 0.01, generator=seeded())
    assert found.rise == pytest.approx(0.01 * (1 * 4 + 2 * 2 + 4 * 1), rel=1e-12)
    assert found.phi == pytest.approx(100 * found.rise / (1 + 1.0), rel=1e-12)  # f(theta) = 3 - 2


def test_in_a_subspace_it_is_the_same_maximum_over_its_coordinates(bowl: Any) -> None:
    """A linear risk again: the maximum is eps sum_j |A'b|_j (|A^+ theta|_j + 1)."""
    at, slope = (torch.randn(7, generator=seeded(i), dtype=torch.float64) for i in (1, 2))
    found = keskar_sharpness(
        bowl(torch.zeros(7, 7, dtype=torch.float64), at, slope), 0.01, subspace=3, generator=seeded(9)
    )
    columns = torch.randn(7, 3, generator=seeded(9), dtype=torch.float64)
    columns /= columns.norm(dim=0)
    widths = 0.01 * ((torch.linalg.pinv(columns) @ at).abs() + 1)
    assert found.rise == pytest.approx(float((widths * (columns.T @ slope).abs()).sum()), rel=1e-10)
    assert found.dimension == 3


def test_a_subspace_of_all_dimensions_and_a_bowl(bowl: Any, symmetric: Any) -> None:
    """Corners of the box in y, enumerated."""
    hessian = symmetric(torch.tensor([3.0, 1.0, 0.5, 0.2], dtype=torch.float64))
    found = keskar_sharpness(bowl(hessian), 0.1, subspace=4, restarts=20, generator=seeded(3))
    columns = torch.randn(4, 4, generator=seeded(3), dtype=torch.float64)
    columns /= columns.norm(dim=0)
    inner: Tensor = columns.T @ hessian @ columns
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=4)), dtype=torch.float64)
    expected = 0.1**2 / 2 * float(((signs @ inner) * signs).sum(1).max())
    assert found.rise == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("subspace", [0, 4])
def test_a_subspace_of_no_or_too_many_dimensions_is_refused(bowl: Any, subspace: int) -> None:
    with pytest.raises(SettingError, match="subspace must be from 1 to the number of weights, 3; got"):
        keskar_sharpness(bowl(torch.eye(3)), subspace=subspace, generator=seeded())


def test_epsilon_must_be_positive(bowl: Any) -> None:
    with pytest.raises(SettingError, match=r"epsilon must be positive and finite; got 0\.0"):
        keskar_sharpness(bowl(torch.eye(3)), 0.0, generator=seeded())
