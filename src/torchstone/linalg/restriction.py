"""Blocks of a map: the rows and columns at chosen positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from torchstone.errors import SettingError
from torchstone.linalg.as_linear_map import as_linear_map
from torchstone.linalg.linear_map import LinearMap, require_square

# A slice, several of them, or positions (k,) as int64.
Positions = slice | Sequence[slice] | Tensor


class RestrictedMap(LinearMap):
    """The block R A C^T of a map A, where R and C pick coordinates: see `restricted`."""

    def __init__(self, A: LinearMap, rows: Int[Tensor, " r"], columns: Int[Tensor, " c"]) -> None:
        same = rows is columns or torch.equal(rows, columns)
        symmetric = A.symmetric and same
        super().__init__((len(rows), len(columns)), A.dtype, A.device, symmetric=symmetric)
        self.base, self.rows, self.columns = A, rows, columns

    def _matvec(self, x: Tensor) -> Tensor:
        return self._matmat(x[:, None])[:, 0]

    def _matmat(self, X: Tensor) -> Tensor:
        whole = X.new_zeros(self.base.shape[1], X.shape[1]).index_copy(0, self.columns, X)
        return self.base.matmat(whole)[self.rows]

    def _transpose(self) -> LinearMap:
        return RestrictedMap(self.base.T, self.columns, self.rows)


def restricted(A: LinearMap | Any, rows: Positions, columns: Positions | None = None) -> LinearMap:
    """The block of a map at chosen rows and columns, such as one layer's block of a Hessian.

    A[rows, columns] = R A C^T. Without `columns` it is the principal block R A R^T, symmetric where A is.

    Cost of a product: one product of A, with its accuracy, and O(n); memory one vector of A a column.

    Args:
        A: A map, or what `as_linear_map` takes.
        rows: Which rows: a slice, several slices, or positions (k,) as int64, none twice.
        columns: Which columns; None for the same as the rows.

    Raises:
        SettingError: No position, one out of range or twice, or no columns for a map that is not square.

    >>> restricted(torch.arange(9.0).reshape(3, 3), slice(1, 3)).to_dense()
    tensor([[4., 5.],
            [7., 8.]])
    """
    A = as_linear_map(A)
    picked = _positions(rows, A.shape[0], "rows", A.device)
    if columns is None:
        require_square(A, "restricted() to a principal block")
        return RestrictedMap(A, picked, picked)
    return RestrictedMap(A, picked, _positions(columns, A.shape[1], "columns", A.device))


def _positions(wanted: Positions, size: int, name: str, device: torch.device) -> Tensor:
    if isinstance(wanted, Tensor):
        found = wanted.to(device)
    else:
        slices = [wanted] if isinstance(wanted, slice) else list(wanted)
        every = torch.arange(size, device=device)
        found = torch.cat([every[s] for s in slices]) if slices else every[:0]
    whole = found.ndim == 1 and found.dtype == torch.int64
    if not whole or len(found) == 0 or int(found.min()) < 0 or int(found.max()) >= size:
        raise SettingError(
            f"{name} are positions from 0 to {size - 1}, at least one",
            f"{wanted!r}",
            "Give slices, or a one-dimensional int64 tensor.",
        )
    if len(found.unique()) < len(found):
        raise SettingError(f"{name} name each position once", f"{wanted!r}", "Drop the repeated ones.")
    return found
