"""A few extreme eigenpairs of a symmetric map, by thick-restarted block Lanczos."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.errors import SettingError
from torchstone.linalg.as_linear_map import as_linear_map
from torchstone.linalg.block_lanczos import BlockLanczos, Ritz
from torchstone.linalg.linear_map import LinearMap, require_symmetric
from torchstone.linalg.orthonormalise import column_norms
from torchstone.linalg.probes import draw_probes

Which = Literal["largest", "smallest", "magnitude"]


@dataclass(frozen=True)
class Eigenpairs:
    """Approximate eigenpairs of a symmetric A, with their residuals.

    An eigenvalue of A lies within residuals[i] of values[i], and, where the next eigenvalue is a gap away, within
    residuals[i]^2 / gap.

    Attributes:
        values: Eigenvalues (k,) in float64: descending for "largest", ascending for "smallest", by descending
            magnitude for "magnitude".
        vectors: Orthonormal eigenvectors, columns (n, k), in the map's dtype.
        residuals: ||A v - lambda v|| (k,) in float64, from products with the vectors returned.
        products: Matrix-vector products spent, those for the residuals included.
        converged: Whether every residual is at most tolerance times the largest |Ritz value| met.
    """

    values: Float[Tensor, " k"]
    vectors: Float[Tensor, "n k"]
    residuals: Float[Tensor, " k"]
    products: int
    converged: bool


def top_eigenpairs(
    A: LinearMap | Any,
    k: int,
    *,
    which: Which = "largest",
    tolerance: float = 1e-3,
    max_products: int | None = None,
    generator: torch.Generator,
    block: int | None = None,
    capacity: int | None = None,
) -> Eigenpairs:
    """The k extreme eigenpairs of a symmetric map, multiplicities included.

    Blocks of k random vectors see every eigenspace as often as it counts among the first k, so multiple and clustered
    eigenvalues come out as often as they occur. A smaller block costs fewer products on a well-separated spectrum and
    may miss copies of an eigenvalue whose multiplicity exceeds it.

    Cost: at the default tolerance 5 to 15 products a pair where the wanted eigenvalues stand apart, up to 100 a pair
    at the edge of a continuous bulk, at most `max_products`; memory of about capacity + 3 block vectors. Bias: the
    values of "largest" err downwards, those of "smallest" upwards.

    Args:
        A: A symmetric map, or what `as_linear_map` takes.
        k: How many pairs, 1 to n.
        which: "largest" or "smallest" by value, or "magnitude" for the largest absolute values.
        tolerance: Residual norms to reach, relative to |lambda_1|, the largest |Ritz value| met.
        max_products: Budget of products, at least 2k + 2 block; None for max(1000, 100 k).
        generator: Draws the start.
        block: Columns of a product, 1 to n; None for k.
        capacity: Basis vectors kept before a restart, at least k + 2 block; None for 20 + 2k + 4 block.

    Returns:
        The pairs, with explicit residuals. `converged` is False where the budget ran out or where the products are too
        inexact for the tolerance; the residuals still hold.

    Raises:
        SettingError: Not symmetric, or k, block, tolerance, max_products or capacity out of range.
        NumericalError: Products with NaN or Inf, or that are not symmetric.

    >>> top_eigenpairs(torch.diag(torch.tensor([3.0, 3.0, 1.0])), 2, generator=torch.Generator()).values.numpy().round(4)
    array([3., 3.])

    Source: Golub & Underwood 1977; Wu & Simon 2000, SIAM J. Matrix Anal. Appl. 22(2); residual bounds:
    Parlett, The Symmetric Eigenvalue Problem, sections 4.5 and 11.7.
    """
    A = as_linear_map(A)
    require_symmetric(A, "top_eigenpairs")
    n = A.shape[0]
    _require_range("k", k, 1, n)
    block = min(k, n) if block is None else block
    _require_range("block", block, 1, n)
    if which not in ("largest", "smallest", "magnitude"):
        raise SettingError("which must be largest, smallest or magnitude", repr(which), "Pick one of them.")
    if not 0 < tolerance < 1:
        raise SettingError("tolerance must lie between 0 and 1", f"{tolerance}", "1e-3 is usual.")
    capacity = 20 + 2 * k + 4 * block if capacity is None else capacity
    _require_range("capacity", capacity, min(k + 2 * block, n), None)
    max_products = max(1000, 100 * k) if max_products is None else max_products
    _require_range("max_products", max_products, 2 * k + 2 * block, None)
    search = _Search(A, k, which, block, generator, capacity)
    return search.run(tolerance, max_products)


class _Search:
    """One search: the process, and what of it is wanted."""

    def __init__(
        self, A: LinearMap, k: int, which: Which, block: int, generator: torch.Generator, capacity: int
    ) -> None:
        self.A, self.k, self.which, self.block, self.generator = A, k, which, block, generator
        self.process = BlockLanczos(A, draw_probes(A, block, generator), capacity)
        self.starts = block  # random directions so far: k of them see all copies of the first k eigenvalues
        # Half the room is kept at a restart, so that the next eigenvalues, which decide how fast the wanted ones
        # converge, are not forgotten; a block, and one more to inject, must fit behind it.
        self.kept = max(k, min(capacity // 2, capacity - 2 * block))

    def run(self, tolerance: float, max_products: int) -> Eigenpairs:
        """Expand and restart until the residuals reach the tolerance or the budget is spent."""
        process, goal, checked = self.process, tolerance, 0
        while True:
            process.expand()
            ritz = process.ritz()
            order = self._order(ritz.values)
            if self._settled(ritz, order, goal):
                pairs = self._pairs(ritz, order, tolerance, checked)
                # Residuals that inexact products keep above their estimates get no better than rounding.
                if pairs.converged or process.exhausted or goal * ritz.values.abs().max() <= process.floor:
                    return pairs
                goal, checked = goal / 10, checked + self.k
            if process.exhausted:
                self._inject()
            needed = process.products + checked + process.fresh.shape[1] + self.k
            if needed > max_products and process.size >= self.k:
                return self._pairs(ritz, order, tolerance, checked)
            if process.full:
                process.restart(ritz.coefficients[:, order[: self.kept]])

    def _order(self, values: Tensor) -> Tensor:
        """Indices of the Ritz values, the wanted ones first."""
        if self.which == "magnitude":
            return values.abs().argsort(descending=True, stable=True)
        return values.argsort(descending=self.which == "largest", stable=True)

    def _settled(self, ritz: Ritz, order: Tensor, goal: float) -> bool:
        """Whether the first k pairs are there and their estimated residuals reach the goal."""
        if self.process.size < self.k:
            return False
        if self.process.exhausted:
            return self.starts >= self.k or self.process.size == self.A.shape[0]
        enough = max(goal * float(ritz.values.abs().max()), self.process.floor)
        return bool((ritz.residuals[order[: self.k]] <= enough).all())

    def _inject(self) -> None:
        """Go on from random directions outside an invariant space."""
        self.process.inject(draw_probes(self.A, self.block, self.generator))
        self.starts += self.block

    def _pairs(self, ritz: Ritz, order: Tensor, tolerance: float, checked: int) -> Eigenpairs:
        """The first k Ritz pairs, with residuals from k more products."""
        first = order[: self.k]
        values = ritz.values[first]
        vectors = self.process.basis @ ritz.coefficients[:, first].to(self.A.dtype)
        products = self.A.matmat(vectors).detach()
        residuals = column_norms(products - vectors * values.to(self.A.dtype))
        converged = bool((residuals <= tolerance * ritz.values.abs().max()).all())
        return Eigenpairs(values, vectors, residuals, self.process.products + checked + self.k, converged)


def _require_range(name: str, value: int, low: int, high: int | None) -> None:
    if value < low or (high is not None and value > high):
        wanted = f"at least {low}" if high is None else f"between {low} and {high}"
        raise SettingError(f"{name} must be {wanted}", f"{value}", "Change it.")
