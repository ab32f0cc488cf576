"""A linear map that remembers its products on disk, so that any routine on it goes on after a kill."""

from __future__ import annotations

import copy
import os
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.errors import SettingError
from torchstone.linalg.as_linear_map import as_linear_map
from torchstone.linalg.checkpoint import Settings
from torchstone.linalg.finished_work import FinishedWork
from torchstone.linalg.linear_map import LinearMap
from torchstone.linalg.sampling import require_at_least


class ResumableMap(LinearMap):
    """The map A with its products, and those of its transpose, kept in a file.

    The routines of this package are deterministic given their generator and the products. So a run that was killed, and
    is started again with the same arguments, asks for the same products in the same order: those in the file come from
    there, to the same bits, and only then is A multiplied. It ends at the bits that it would have had uninterrupted.

    Used as a context manager: where the block ends normally the file is deleted, where it ends by an exception or a kill
    it stays. A file of another run is refused as soon as a vector differs from the one multiplied then: after other
    arguments, another seed, or rounding of another number of threads or another machine. The first product is computed
    again in part, one column, so that a file of another map is refused too. A product that a kill cut short in the file
    is computed again. Processes that make the products together, as `Specimen(processes=...)` does, share one file on a
    file system that all of them see.

    Cost: on disk 4 (float32) or 8 bytes for each of the m or n entries of a product; no memory beyond a block. Time: for
    hashing and writing, about 10 nanoseconds an entry, which is far below a product of a network's curvature; waiting for
    the disk takes at most 5%. Products of more than `block` columns are split, which costs what A gains from more
    columns at once and loses at most `block` products in a kill.

    Args:
        A: Any map, or what `as_linear_map` takes.
        path: The file. What an earlier run left there is taken over.
        settings: What else must agree with the earlier run, plain values by name; A's shape and dtype are compared anyway.
        block: Columns of a product at most, at least 1. Fewer lose less in a kill. The results are those without the
            file to the bit where no product has more columns.

    Raises:
        SettingError: block < 1, settings that are not plain values, or a file of another run or map.
        FormatError: A file that is no checkpoint.
        OutputError: A file that cannot be written.

    >>> import tempfile, pathlib
    >>> from torchstone.linalg import randomised_svd
    >>> A = torch.diag(torch.tensor([4.0, 3.0, 0.0, 0.0]))
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "svd.products"
    >>> with ResumableMap(A, path) as kept:
    ...     found = randomised_svd(kept, 2, generator=torch.Generator())
    >>> found.values.numpy().round(4), path.exists()
    (array([4., 3.]), False)
    """

    def __init__(
        self,
        A: LinearMap | Any,
        path: str | os.PathLike[str] | FinishedWork,
        settings: Settings | None = None,
        *,
        block: int = 10,
    ) -> None:
        A = as_linear_map(A)
        require_at_least("block", block, 1)
        super().__init__(A.shape, A.dtype, A.device, symmetric=A.symmetric)
        for name, value in (settings or {}).items():
            if not isinstance(value, str | int | float):
                raise SettingError(
                    "settings are numbers, texts and truth values by name",
                    f"{name} of type {type(value).__name__}",
                    "Name what identifies the run, such as the seed.",
                )
        if not isinstance(path, FinishedWork):
            shape = {"rows": A.shape[0], "columns": A.shape[1], "dtype": str(A.dtype), "block": block}
            path = FinishedWork(path, {**(settings or {}), **shape})
        self.A, self.block, self._finished, self._side = A, block, path, "A"

    def _matvec(self, x: Float[Tensor, " n"]) -> Float[Tensor, " m"]:
        return self._kept(x[:, None], lambda X: self.A.matvec(X[:, 0])[None])[0]

    def _matmat(self, X: Float[Tensor, "n k"]) -> Float[Tensor, "m k"]:
        product = lambda X: self.A.matmat(X).T
        if X.shape[1] <= self.block:
            return self._kept(X, product).T
        rows = torch.empty(X.shape[1], self.shape[0], dtype=self.dtype, device=self.device)
        for start in range(0, X.shape[1], self.block):
            here = slice(start, start + self.block)
            rows[here] = self._kept(X[:, here], product)
        return rows.T

    def _kept(self, X: Tensor, product: Any) -> Tensor:
        return self._finished(X, product, self._side).to(self.device)

    def _transpose(self) -> LinearMap:
        other = copy.copy(self)
        other.A, other.shape = self.A.T, (self.shape[1], self.shape[0])
        other._side = "T" if self._side == "A" else "A"
        return other

    def remove(self) -> None:
        """Delete the file; a block that ends normally does it."""
        self._finished.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        self._finished.__exit__(kind)


def resumable(A: LinearMap, finished: FinishedWork) -> LinearMap:
    """A with its products among a run's finished work; A itself where nothing is kept."""
    return A if finished.path is None else ResumableMap(A, finished)
