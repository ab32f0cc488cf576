"""Non-negative factorisations: planted ranks, the bound by the singular values, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from torchstone.errors import NumericalError, SettingError
from torchstone.kernels.nmf import nmf, truncated_svd


def planted(rank: int, seed: int = 0, rows: int = 80, columns: int = 40) -> Tensor:
    """A product of non-negative matrices, half of whose entries are 0."""
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(rows, rank, generator=generator, dtype=torch.float64).relu()
    right = torch.randn(rank, columns, generator=generator, dtype=torch.float64).relu()
    return left @ right


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_a_planted_rank_is_recovered(rank: int) -> None:
    for seed in range(3):
        matrix = planted(rank, seed)
        found = nmf(matrix, rank, iterations=20_000, tolerance=1e-12)
        assert found.error < 1e-4
        assert float(found.left.min()) >= 0
        assert float(found.right.min()) >= 0
        assert float((matrix - found.product).norm() / matrix.norm()) == pytest.approx(found.error, rel=1e-6)


def test_never_below_the_singular_values_and_close_for_rank_one() -> None:
    matrix = planted(12)
    s = torch.linalg.svdvals(matrix)
    for rank in (1, 2, 5, 10):
        best = float(s[rank:].square().sum().sqrt() / s.norm())
        found = nmf(matrix, rank)
        assert found.error >= best - 1e-12
        assert found.error < best + 0.15
        assert float((matrix - truncated_svd(matrix, rank)).norm() / matrix.norm()) == pytest.approx(best)
    # Perron and Frobenius: the leading singular vectors of a non-negative matrix are non-negative.
    assert nmf(matrix, 1, iterations=2000, tolerance=1e-10).error == pytest.approx(
        float(s[1:].norm() / s.norm()), rel=1e-6
    )


def test_scale_zero_and_repeats() -> None:
    matrix = planted(4)
    one, again, large = nmf(matrix, 3), nmf(matrix, 3), nmf(1e30 * matrix, 3)
    assert torch.equal(one.product, again.product)
    torch.testing.assert_close(large.product, 1e30 * one.product, rtol=1e-6, atol=0)
    nothing = nmf(torch.zeros(5, 4), 2)
    assert nothing.error == 0
    assert float(nothing.product.abs().sum()) == 0


def test_the_global_random_numbers_are_left_alone() -> None:
    import numpy as np

    state: Any = np.random.get_state()  # noqa: NPY002
    before = torch.get_rng_state()
    nmf(planted(4), 3)
    assert torch.equal(before, torch.get_rng_state())
    after: Any = np.random.get_state()  # noqa: NPY002
    assert (state[1] == after[1]).all()


def test_what_cannot_be_factorised_is_named() -> None:
    for rank in (0, 41):
        with pytest.raises(SettingError, match="rank from 1 to its smaller side"):
            nmf(planted(2), rank)
        with pytest.raises(SettingError, match="rank from 1 to its smaller side"):
            truncated_svd(planted(2), rank)
    with pytest.raises(NumericalError, match="not negative"):
        nmf(-planted(2), 1)
    with pytest.raises(NumericalError, match="not negative"):
        nmf(planted(2) * math.inf, 1)
