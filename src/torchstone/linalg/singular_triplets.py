"""A few extreme singular triplets of any map, by thick-restarted Golub-Kahan with a look at what it may have missed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.errors import SettingError
from torchstone.linalg.as_linear_map import as_linear_map
from torchstone.linalg.complement import ComplementChain
from torchstone.linalg.function_map import FunctionMap
from torchstone.linalg.golub_kahan import GolubKahan, RitzTriplets
from torchstone.linalg.linear_map import LinearMap
from torchstone.linalg.orthonormalise import column_norms
from torchstone.linalg.probes import draw_probes

_GUARD = 4  # no verdict before this many directions beyond k
_CHAIN = 12
_CLEARANCE = 0.05


@dataclass(frozen=True)
class SingularTriplets:
    """Approximate singular triplets of A, with their residuals.

    A singular value of A lies within residuals[i] of values[i].

    Attributes:
        left: u, orthonormal columns (m, k), in the map's dtype.
        values: sigma (k,) in float64: descending for "largest", ascending for "smallest".
        right: v, orthonormal columns (n, k), in the map's dtype.
        residuals: sqrt((||A v - sigma u||^2 + ||A^T u - sigma v||^2) / 2) (k,) in float64, rounding errors included.
        products: Products with A and with its transpose.
        converged: Whether every residual is at most tolerance times the largest Ritz value met.
        others: With 99% probability over the random directions, at most k singular values lie beyond this: above it
            for "largest", below it for "smallest".
    """

    left: Float[Tensor, "m k"]
    values: Float[Tensor, " k"]
    right: Float[Tensor, "n k"]
    residuals: Float[Tensor, " k"]
    products: int
    converged: bool
    others: float


def singular_triplets(
    A: LinearMap | Any,
    k: int,
    *,
    which: Literal["largest", "smallest"] = "largest",
    tolerance: float = 1e-3,
    max_products: int | None = None,
    generator: torch.Generator,
    capacity: int | None = None,
) -> SingularTriplets:
    """The k largest or smallest singular triplets of a map, multiplicities included.

    Works on the Krylov space of one random vector, restarted with the wanted triplets when the room is full; then
    looks into the complement from another random vector, as `top_eigenpairs` does. Never squares the map: small
    singular values keep their absolute accuracy of eps |A|. All min(m, n) of them, and those of a map no larger than
    `capacity`, come from the dense matrix.

    Cost: for the largest about 4 to 10 products a triplet where they stand apart, and some 10 to look elsewhere; for
    the smallest far more (the number grows like |A| / gap). Memory: capacity (m + n). Whole spectrum: min(m, n) products
    and m n numbers.
    Bias: the values of "largest" err downwards, those of "smallest" upwards.

    Args:
        A: A map that knows its transpose, or what `as_linear_map` takes.
        k: How many, 1 to min(m, n).
        which: "largest" or "smallest".
        tolerance: Residuals to reach, relative to the largest Ritz value met.
        max_products: Budget, with A and its transpose; None for max(2000, 200 k).
        generator: Draws the random directions.
        capacity: Vectors of each basis kept at a time, at least 3 k + 8 (or min(m, n)); None for 24 + 4 k.

    Returns:
        The triplets; `converged` is False where the budget ended the search; the residuals still hold.

    Raises:
        SettingError: A setting out of range, or a map that does not know its transpose.
        NumericalError: Products with NaN or Inf, or of another map's transpose.

    >>> found = singular_triplets(torch.diag(torch.tensor([3.0, 3.0, 1.0])), 2, generator=torch.Generator())
    >>> found.values.numpy().round(4)
    array([3., 3.])

    Source: Baglama & Reichel 2005, SIAM J. Sci. Comput. 27(1); bounds on the others: see `ComplementChain`.
    """
    A = as_linear_map(A)
    small = min(A.shape)
    _require("k", k, 1, small)
    if which not in ("largest", "smallest"):
        raise SettingError("which must be largest or smallest", repr(which), "Pick one of them.")
    if not 0 < tolerance < 1:
        raise SettingError("tolerance must lie between 0 and 1", f"{tolerance}", "1e-3 is usual.")
    capacity = 24 + 4 * k if capacity is None else capacity
    _require("capacity", capacity, min(3 * k + 2 * _GUARD, small), None)
    max_products = max(2000, 200 * k) if max_products is None else max_products
    _require("max_products", max_products, 2 * (k + _GUARD + 1), None)
    if A.shape[0] < A.shape[1]:
        found = singular_triplets(
            A.T,
            k,
            which=which,
            tolerance=tolerance,
            max_products=max_products,
            generator=generator,
            capacity=capacity,
        )
        return replace(found, left=found.right, right=found.left)
    if small <= capacity and small <= max_products:
        return _dense(A, k, which == "largest", tolerance)
    return _Search(A, k, which == "largest", tolerance, max_products, capacity, generator).run()


def _dense(A: LinearMap, k: int, largest: bool, tolerance: float) -> SingularTriplets:
    """From the matrix itself."""
    matrix = A.to_dense().detach()
    U, values, V = torch.linalg.svd(matrix.double(), full_matrices=False)
    order = torch.arange(len(values)) if largest else torch.arange(len(values)).flip(0)
    order, rest = order[:k], order[k:]
    U, s, V = U[:, order].to(A.dtype), values[order], V.T[:, order].to(A.dtype)
    forward = column_norms(matrix.double() @ V.double() - U.double() * s)
    backward = column_norms(matrix.double().T @ U.double() - V.double() * s)
    rounding = 5 * torch.finfo(A.dtype).eps * float(values[0])
    residuals = torch.hypot(forward, backward) / math.sqrt(2) + rounding
    none = -math.inf if largest else math.inf
    others = float(values[rest[0]]) if len(rest) else none
    converged = bool((residuals <= tolerance * values[0]).all())
    return SingularTriplets(U, s, V, residuals, A.shape[1], converged, others)


class _Search:
    """One search: the process, and what of it is wanted."""

    def __init__(
        self,
        A: LinearMap,
        k: int,
        largest: bool,
        tolerance: float,
        max_products: int,
        capacity: int,
        generator: torch.Generator,
    ) -> None:
        self.A, self.k, self.largest, self.tolerance = A, k, largest, tolerance
        self.max_products, self.capacity, self.generator = max_products, capacity, generator
        self.process = GolubKahan(A, draw_probes(A, 1, generator), capacity, generator)
        self.elsewhere = 0

    def run(self) -> SingularTriplets:
        """Expand and restart until the residuals reach the tolerance or the budget is spent."""
        process = self.process
        while process.size < self.k + _GUARD:
            if process.exhausted:
                process.inject(draw_probes(self.A, 1, self.generator))
            process.expand()
        while True:
            ritz = process.ritz()
            order = torch.arange(process.size) if self.largest else torch.arange(process.size).flip(0)
            wanted = order[: self.k]
            enough = max(self.tolerance * float(ritz.values[0]), process.floor)
            missing = wanted[ritz.residuals[wanted] > enough]
            if self._spent():
                return self._found(ritz, wanted, math.inf if self.largest else 0.0)
            if len(missing) == 0 or process.exhausted:
                hidden, others = self._look_elsewhere(ritz, wanted, enough)
                if hidden is None or not self._take(ritz, order, hidden):
                    return self._found(ritz, wanted, others)
                continue
            if process.width > 1:
                process.turn(ritz.left[:, missing])
            if not process.has_room():
                process.restart(ritz, order[: self._kept(1)])
            process.expand()

    def _spent(self) -> bool:
        return self.process.products + self.elsewhere + 2 > self.max_products

    def _kept(self, extra: int) -> int:
        """How many triplets survive a restart: half the room, where that leaves `extra`."""
        return max(self.k, min(self.capacity // 2, self.capacity - self.process.width - extra))

    def _take(self, ritz: RitzTriplets, order: Tensor, columns: Tensor) -> bool:
        """Take directions into the basis; False where there is no room for any."""
        process = self.process
        if not process.has_room(2 * columns.shape[1]):
            process.restart(ritz, order[: self._kept(2 * columns.shape[1])])
        room = (self.capacity - process.size - process.width) // 2
        before, count = process.products, process.inject(columns[:, : max(0, room)])
        for _ in range(count or process.width):  # without room for more, what is hidden lies in N
            if process.exhausted or self._spent() or not process.has_room():
                break
            process.expand()
        return process.products > before

    def _look_elsewhere(
        self, ritz: RitzTriplets, wanted: Tensor, enough: float
    ) -> tuple[Tensor | None, float]:
        """Right vectors that show a wanted value not found, and else a bound on all the others."""
        known = torch.linalg.qr(self.process.right @ ritz.right[:, wanted].to(self.A.dtype)).Q
        scale, edge = float(ritz.values[0]), float(ritz.values[wanted[-1]])
        # Scaled, so that squares neither overflow nor vanish.
        unit = scale if scale > 0 else 1.0
        chain = ComplementChain(_gram(self.A, unit), known, self.generator, _CHAIN, 1.0)
        bound, blur = (
            math.inf if self.largest else 0.0,
            3 * math.sqrt(torch.finfo(self.A.dtype).eps),
        )
        while not chain.finished and not self._spent():
            chain.step()
            self.elsewhere += 2
            if self.largest:
                hidden = chain.above(((edge + enough) / unit) ** 2)
                bound = unit * math.sqrt(max(chain.upper(), 0.0))
            else:
                level = (edge - enough) / unit
                # Below this, squares are rounding errors.
                hidden = chain.below(level**2 if level > blur else -math.inf)
                bound = unit * math.sqrt(max(chain.lower() - blur**2, 0.0))
            if hidden.shape[1]:
                more = draw_probes(self.A, hidden.shape[1], self.generator)
                return torch.cat([hidden, more], dim=1), bound
            if abs(bound - edge) <= max(enough, _CLEARANCE * scale):
                break
        moved = float(torch.linalg.vector_norm(ritz.residuals[wanted]))
        return None, bound + moved if self.largest else max(0.0, bound - moved)

    def _found(self, ritz: RitzTriplets, wanted: Tensor, others: float) -> SingularTriplets:
        process, dtype = self.process, self.A.dtype
        residuals = ritz.residuals[wanted] / math.sqrt(2) + process.floor / 2
        converged = bool((residuals <= self.tolerance * float(ritz.values[0])).all())
        left, right = (
            process.left @ ritz.left[:, wanted].to(dtype),
            process.right @ ritz.right[:, wanted].to(dtype),
        )
        products = process.products + self.elsewhere
        return SingularTriplets(left, ritz.values[wanted], right, residuals, products, converged, others)


def _gram(A: LinearMap, unit: float) -> LinearMap:
    """A^T A / unit^2, two products each."""
    back = A.T
    return FunctionMap(
        lambda X: back.matmat(A.matmat(X).detach() / unit).detach() / unit,
        (A.shape[1], A.shape[1]),
        A.dtype,
        A.device,
        block=True,
        symmetric=True,
    )


def singular_values(A: LinearMap | Any, *, block: int = 64) -> Float[Tensor, " k"]:
    """All min(m, n) singular values, descending, in float64, from the dense matrix.

    Accuracy: rounding, of the products and of LAPACK's decomposition in float64.

    Cost: min(m, n) products, `block` at a time, and O(m n min(m, n)) flops; memory 2 m n numbers.

    Args:
        A: Any map, or what `as_linear_map` takes. One with fewer rows than columns must know its transpose.
        block: Columns of a product.

    Raises:
        SettingError: A map with fewer rows than columns that does not know its transpose.
        NumericalError: Products with NaN or Inf.

    >>> singular_values(torch.tensor([[3.0, 0.0], [0.0, -4.0], [0.0, 0.0]])).numpy()
    array([4., 3.])
    """
    A = as_linear_map(A)
    narrow = A if A.shape[0] >= A.shape[1] else A.T
    return torch.linalg.svdvals(narrow.to_dense(block).detach().double())


def _require(name: str, value: int, low: int, high: int | None) -> None:
    if not isinstance(value, Integral) or value < low or (high is not None and value > high):
        wanted = f"at least {low}" if high is None else f"between {low} and {high}"
        raise SettingError(f"{name} must be {wanted}", f"{value}", "Pass such a whole number.")
