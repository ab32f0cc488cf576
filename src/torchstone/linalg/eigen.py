"""A few extreme eigenpairs of a symmetric map, by thick-restarted Lanczos from several vectors."""

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

# No verdict before this many directions beyond k: a start may happen to lie close to a wrong eigenvector.
_GUARD = 4


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

    The search starts from k + 1 random vectors, which together see every eigenspace as often as it counts among
    the first k, so multiple and clustered eigenvalues come out as often as they occur. Each product goes to those directions that
    carry the most of the residuals still too large, so this costs little more than a search from a single vector.

    Cost: at the default tolerance 3 to 10 products a pair where the wanted eigenvalues stand apart, up to 100 a pair
    at the edge of a continuous bulk, at most `max_products`; memory of `capacity` vectors and about 3 block + 2 k more.
    Bias: the values of "largest" err downwards, those of "smallest" upwards. Like every search by products alone, this
    makes it only unlikely that a wanted pair is overlooked; a tighter tolerance makes it less likely.

    Args:
        A: A symmetric map, or what `as_linear_map` takes.
        k: How many pairs, 1 to n.
        which: "largest" or "smallest" by value, or "magnitude" for the largest absolute values.
        tolerance: Residual norms to reach, relative to |lambda_1|, the largest |Ritz value| met.
        max_products: Budget of products, at least 2k + block + 4; None for max(1000, 100 k).
        generator: Draws the start.
        block: Columns of a product, 1 to n: more use batched products better, fewer need fewer of them. None for
            min(k, 4).
        capacity: Vectors kept at a time, at least 3k + 4 block + 4 (or n); None for 20 + 4k + 4 block.

    Returns:
        The pairs, with explicit residuals. `converged` is False where the budget ran out or where the products are too
        inexact for the tolerance; the residuals still hold.

    Raises:
        SettingError: Not symmetric, or k, block, tolerance, max_products or capacity out of range.
        NumericalError: Products with NaN or Inf, or that are not symmetric.

    >>> top_eigenpairs(torch.diag(torch.tensor([3.0, 3.0, 1.0])), 2, generator=torch.Generator()).values.numpy().round(4)
    array([3., 3.])

    Source: Golub & Underwood 1977; Wu & Simon 2000, SIAM J. Matrix Anal. Appl. 22(2); several starts, one vector at a
    time: Aliaga, Boley, Freund & Hernandez 2000, Math. Comp. 69; residual bounds: Parlett, The Symmetric Eigenvalue
    Problem, sections 4.5 and 11.7.
    """
    A = as_linear_map(A)
    require_symmetric(A, "top_eigenpairs")
    n = A.shape[0]
    _require_range("k", k, 1, n)
    block = min(k, 4) if block is None else block
    _require_range("block", block, 1, n)
    if which not in ("largest", "smallest", "magnitude"):
        raise SettingError("which must be largest, smallest or magnitude", repr(which), "Pick one of them.")
    if not 0 < tolerance < 1:
        raise SettingError("tolerance must lie between 0 and 1", f"{tolerance}", "1e-3 is usual.")
    capacity = 20 + 4 * k + 4 * block if capacity is None else capacity
    _require_range("capacity", capacity, min(3 * k + 4 * block + _GUARD, n), None)
    max_products = max(1000, 100 * k) if max_products is None else max_products
    _require_range("max_products", max_products, 2 * k + block + _GUARD, None)
    search = _Search(A, k, which, block, generator, capacity)
    return search.run(tolerance, max_products)


class _Search:
    """One search: the process, and what of it is wanted."""

    def __init__(
        self, A: LinearMap, k: int, which: Which, block: int, generator: torch.Generator, capacity: int
    ) -> None:
        self.A, self.k, self.which, self.block, self.capacity = A, k, which, block, capacity
        # k random directions see all copies of the first k eigenvalues, however few of them a product takes. One to
        # spare makes it eight times rarer that they see one of them badly.
        self.process = BlockLanczos(A, draw_probes(A, min(k + 1, A.shape[0]), generator), capacity)
        # Half the room is kept at a restart, so that the next eigenvalues, which decide how fast the wanted ones
        # converge, are not forgotten; the fresh directions and a product's new ones must fit behind it.
        self.kept = max(k, min(capacity // 2, capacity - k - 1 - 2 * block))

    def run(self, tolerance: float, max_products: int) -> Eigenpairs:
        """Expand and restart until the residuals reach the tolerance or the budget is spent."""
        process, goal, checked = self.process, tolerance, 0
        patience = (
            self.capacity
        )  # products to spend on rivals: in a dense spectrum there is always another one
        while process.size < self.k + _GUARD and not process.exhausted:
            process.expand(self.block)
        while True:
            ritz = process.ritz()
            order = self._merit(ritz.values).argsort(descending=True, stable=True)
            wanted = order[: self.k]
            enough = max(goal * float(ritz.values.abs().max()), process.floor)
            missing = wanted[ritz.residuals[wanted] > enough]
            if len(missing) == 0 and patience > 0:
                missing = self._rivals(ritz, order, enough)
                patience -= self.block
            spent = process.products + checked + self.block + self.k > max_products
            if len(missing) == 0 or process.exhausted or spent:
                pairs = self._pairs(ritz, wanted, tolerance, checked)
                # Residuals that inexact products keep above their estimates get no better than rounding.
                if pairs.converged or process.exhausted or spent or enough <= process.floor:
                    return pairs
                goal, checked = goal / 10, checked + self.k
                continue
            process.turn(ritz.coefficients[:, missing])
            if not process.has_room(self.block):
                process.restart(ritz.coefficients[:, self._keep(order, missing)])
            process.expand(self.block)

    def _merit(self, values: Tensor) -> Tensor:
        """What the wanted eigenvalues have most of."""
        if self.which == "magnitude":
            return values.abs()
        return values if self.which == "largest" else -values

    def _rivals(self, ritz: Ritz, order: Tensor, enough: float) -> Tensor:
        """Ritz pairs that may hide a wanted one: behind the first k, but among them if moved by their residual.

        They are mixtures of eigenvectors, most often of the two ends of an indefinite spectrum.
        """
        merit, residuals = self._merit(ritz.values)[order], ritz.residuals[order]
        return order[(residuals > enough) & (merit + residuals > merit[self.k - 1] + enough)]

    def _keep(self, order: Tensor, missing: Tensor) -> Tensor:
        """The Ritz pairs that survive a restart: the first k, what is missing, and then the next best."""
        after = order[self.k :]
        later = (~torch.isin(after, missing)).long().argsort(stable=True)
        return torch.cat([order[: self.k], after[later]])[: self.kept]

    def _pairs(self, ritz: Ritz, wanted: Tensor, tolerance: float, checked: int) -> Eigenpairs:
        """The wanted Ritz pairs, with residuals from k more products."""
        values = ritz.values[wanted]
        vectors = self.process.basis @ ritz.coefficients[:, wanted].to(self.A.dtype)
        products = self.A.matmat(vectors).detach()
        residuals = column_norms(products - vectors * values.to(self.A.dtype))
        converged = bool((residuals <= tolerance * ritz.values.abs().max()).all())
        return Eigenpairs(values, vectors, residuals, self.process.products + checked + self.k, converged)


def _require_range(name: str, value: int, low: int, high: int | None) -> None:
    if value < low or (high is not None and value > high):
        wanted = f"at least {low}" if high is None else f"between {low} and {high}"
        raise SettingError(f"{name} must be {wanted}", f"{value}", "Change it.")
