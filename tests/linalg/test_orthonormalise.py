from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchstone.linalg import orthonormalise
from torchstone.linalg.orthonormalise import column_norms


def orthonormal(seeded, n: int, m: int, dtype=torch.float64) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(n, n, generator=seeded(5), dtype=dtype)).Q[:, :m]


@given(st.integers(1, 12), st.integers(0, 12), st.integers(1, 6), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_the_parts_add_up_and_are_orthonormal(seeded, n, m, b, seed):
    basis = orthonormal(seeded, n, min(m, n))
    block = torch.randn(n, b, generator=seeded(seed), dtype=torch.float64)
    fresh, overlap, coupling = orthonormalise(block, basis, floor=1e-12)
    assert fresh.shape[1] == min(b, n - basis.shape[1])
    torch.testing.assert_close(basis @ overlap + fresh @ coupling, block, rtol=0, atol=1e-12)
    together = torch.cat([basis, fresh], dim=1)
    torch.testing.assert_close(
        together.T @ together, torch.eye(together.shape[1], dtype=torch.float64), rtol=0, atol=1e-13
    )


@pytest.mark.parametrize("outside", [1e-4, 1e-8, 1e-12, 1e-14])
def test_a_rest_far_shorter_than_the_block_is_still_orthogonal(seeded, outside):
    basis = orthonormal(seeded, 50, 10)
    block = basis @ torch.randn(10, 3, generator=seeded(1), dtype=torch.float64)
    block = block + outside * torch.randn(50, 3, generator=seeded(2), dtype=torch.float64)
    fresh, _, _ = orthonormalise(block, basis)
    assert fresh.shape[1] == 3
    assert float((basis.T @ fresh).abs().max()) < 1e-14


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_dependent_columns_are_dropped(seeded, rank):
    factors = torch.randn(20, rank, generator=seeded(1), dtype=torch.float64)
    block = factors @ torch.randn(rank, 4, generator=seeded(2), dtype=torch.float64)
    fresh, _, coupling = orthonormalise(block, block[:, :0], floor=1e-12)
    assert fresh.shape[1] == rank
    torch.testing.assert_close(fresh @ coupling, block, rtol=0, atol=1e-12)


def test_no_more_fresh_directions_than_there_is_room(seeded):
    block = torch.randn(9, 3, generator=seeded(1), dtype=torch.float64)
    assert orthonormalise(block, block[:, :0], room=2).fresh.shape[1] == 2
    assert orthonormalise(block, orthonormal(seeded, 9, 9)).fresh.shape[1] == 0


def test_a_single_vector_couples_positively(seeded):
    for seed in range(8):
        vector = torch.randn(5, 1, generator=seeded(seed), dtype=torch.float64)
        assert float(orthonormalise(vector, vector[:, :0]).coupling) > 0


@pytest.mark.parametrize("size", [1e-170, 1.0, 1e170])
def test_column_norms_neither_overflow_nor_underflow(size):
    columns = size * torch.tensor([[3.0, 0.0], [4.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(column_norms(columns) / size, torch.tensor([5.0, 0.0], dtype=torch.float64))
    assert column_norms(columns[:0]).tolist() == [0.0, 0.0]
