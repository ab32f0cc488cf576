from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchstone.errors import SettingError
from torchstone.linalg import BlockDiagonalMap, DenseMap, FunctionMap, restricted, top_eigenpairs


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_restrictions_against_indexing(seeded, m, n, seed):
    matrix = torch.randn(m, n, generator=seeded(seed), dtype=torch.float64)
    rows = torch.randperm(m, generator=seeded(seed))[: 1 + seed % m]
    columns = torch.randperm(n, generator=seeded(seed + 1))[: 1 + seed % n]
    block = restricted(matrix, rows, columns)
    exact = matrix[rows][:, columns]
    torch.testing.assert_close(block.to_dense(), exact)
    torch.testing.assert_close(block.T.to_dense(), exact.T)
    x = torch.randn(len(columns), generator=seeded(seed), dtype=torch.float64)
    torch.testing.assert_close(block @ x, exact @ x)


def test_principal_blocks_are_symmetric_where_the_map_is(seeded, with_spectrum):
    matrix = with_spectrum(torch.linspace(-1, 4, 30))
    block = restricted(matrix, [slice(3, 7), slice(20, None)])
    picked = [*range(3, 7), *range(20, 30)]
    exact = matrix[picked][:, picked]
    assert block.symmetric
    torch.testing.assert_close(block.to_dense(), exact)
    found = top_eigenpairs(block, 2, generator=seeded(0), tolerance=1e-9)
    torch.testing.assert_close(found.values, torch.linalg.eigvalsh(exact).flip(0)[:2])
    assert not restricted(matrix, slice(0, 3), slice(1, 4)).symmetric
    assert not restricted(DenseMap(matrix, symmetric=False), slice(0, 3)).symmetric


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (slice(2, 2), "rows are positions from 0 to 3, at least one"),
        ([], "at least one"),
        (torch.tensor([4]), "rows are positions from 0 to 3"),
        (torch.tensor([-1]), "rows are positions from 0 to 3"),
        (torch.tensor([1.0]), "int64"),
        (torch.tensor([1, 1]), "rows name each position once"),
        ([slice(0, 2), slice(1, 3)], "each position once"),
    ],
)
def test_bad_positions_are_refused(rows, message):
    with pytest.raises(SettingError, match=message):
        restricted(torch.eye(4), rows)


def test_a_principal_block_needs_a_square_map():
    with pytest.raises(SettingError, match="needs a square map"):
        restricted(torch.ones(2, 3), slice(0, 1))


def test_block_diagonals_against_dense(seeded):
    blocks = [torch.randn(shape, generator=seeded(i)) for i, shape in enumerate([(2, 2), (1, 3), (4, 1)])]
    A = BlockDiagonalMap(dict(zip("abc", blocks, strict=True)))
    exact = torch.block_diag(*blocks)
    torch.testing.assert_close(A.to_dense(), exact)
    torch.testing.assert_close(A.T.to_dense(), exact.T)
    torch.testing.assert_close(A @ torch.ones(6), exact.sum(dim=1))
    assert A.rows == {"a": slice(0, 2), "b": slice(2, 3), "c": slice(3, 7)}
    assert A.columns == {"a": slice(0, 2), "b": slice(2, 5), "c": slice(5, 6)}
    transposed = A.T
    assert isinstance(transposed, BlockDiagonalMap)
    assert transposed.rows == A.columns
    assert not A.symmetric
    again = restricted(A, A.rows["b"], A.columns["b"])
    torch.testing.assert_close(again.to_dense(), blocks[1])


def test_block_diagonals_of_symmetric_blocks_are_symmetric():
    A = BlockDiagonalMap([torch.eye(2), FunctionMap(lambda x: 3 * x, (2, 2), symmetric=True)])
    assert A.symmetric
    assert A.rows == {0: slice(0, 2), 1: slice(2, 4)}


def test_bad_blocks_are_refused():
    with pytest.raises(SettingError, match="needs blocks, all of one dtype and device; got none"):
        BlockDiagonalMap([])
    with pytest.raises(SettingError, match="all of one dtype"):
        BlockDiagonalMap([torch.eye(2), torch.eye(2).double()])
