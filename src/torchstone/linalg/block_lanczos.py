"""The block Lanczos process with full reorthogonalisation and thick restarts: the engine of Lanczos routines."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.errors import NumericalError
from torchstone.linalg.linear_map import LinearMap
from torchstone.linalg.orthonormalise import column_norms, orthonormalise

_ROUNDING = 10.0  # directions shorter than this many eps |A| are rounding error


class Ritz(NamedTuple):
    """Ritz values in ascending order, their coefficients in the basis, and their residual norms ||A y - theta y||.

    `outside` is the part of the residuals that further products can remove; the rest is the products' own asymmetry.
    """

    values: Float[Tensor, " m"]
    coefficients: Float[Tensor, "m m"]
    residuals: Float[Tensor, " m"]
    outside: Float[Tensor, " m"]


class BlockLanczos:
    """An orthonormal basis V of a block Krylov space of a symmetric A, grown by a few directions at a time.

    Kept true all along, to rounding: A V = V T + N C, where T = V^T A V is `raw` (m, m) as the products give it and
    `projected` its symmetric part, the orthonormal columns N = `fresh` (n, r) come next, and C = `coupling` (r, m). So
    the Ritz pair (theta, V s) has the residual norm sqrt(||T s - theta s||^2 + ||C s||^2), without a product. The
    process is exhausted when N is empty: then V spans an invariant space, until `inject` adds directions.

    A restart keeps the identity up to the asymmetry of T, which `drift` adds up: rounding, and no more, unless products
    are inexact.

    An expansion need not take all of N. What it leaves stays in N, so a wide start keeps its promise (as many copies of
    an eigenvalue as it has columns) while the products go where they are of use: see `turn`.

    Products are in the map's dtype; T and C are float64. A breakdown (a new direction no longer than 10 eps |A|, with
    |A| the longest product with a unit vector so far) makes N smaller.

    Cost of an expansion by b directions with m in the basis: a product of b columns and about 8 n m b operations. Memory:
    capacity vectors of length n for V and N, and about three times the columns of a product.

    Args:
        A: Declared symmetric.
        start: Columns (n, b), not necessarily orthonormal.
        capacity: The largest number of columns of V and N together.

    Source: Golub & Underwood 1977 (block Lanczos); Wu & Simon 2000 (thick restart); Aliaga, Boley, Freund & Hernandez
    2000 (several starts, one vector at a time).
    """

    def __init__(self, A: LinearMap, start: Float[Tensor, "n b"], capacity: int) -> None:
        n = A.shape[0]
        # Rows 0 to m are V, the next r are N: transposed, so that a vector is contiguous, and any leading part too.
        self._rows = torch.empty(min(capacity, n), n, dtype=A.dtype, device=A.device)
        self.A, self.products, self.scale, self.drift = A, 0, 0.0, 0.0
        self.raw, self.coupling = self._zeros(0, 0), self._zeros(0, 0)
        self.inject(start)

    @property
    def size(self) -> int:
        """Number m of basis vectors."""
        return self.raw.shape[0]

    @property
    def projected(self) -> Float[Tensor, "m m"]:
        """The symmetric part of T."""
        return (self.raw + self.raw.T) / 2

    @property
    def width(self) -> int:
        """Number r of fresh directions."""
        return self.coupling.shape[0]

    @property
    def basis(self) -> Float[Tensor, "n m"]:
        """V: a view that the next restart overwrites."""
        return self._rows[: self.size].T

    @property
    def fresh(self) -> Float[Tensor, "n r"]:
        """N: a view that the next expansion overwrites."""
        return self._rows[self.size : self.size + self.width].T

    @property
    def exhausted(self) -> bool:
        """Whether the basis spans an invariant space of A."""
        return self.width == 0

    @property
    def floor(self) -> float:
        """Length up to which a direction is taken for rounding error."""
        return _ROUNDING * torch.finfo(self.A.dtype).eps * self.scale

    def has_room(self, columns: int) -> bool:
        """Whether an expansion by so many columns fits; restart first where it does not."""
        return min(self.size + self.width + columns, self.A.shape[0]) <= self._rows.shape[0]

    def expand(self, columns: int) -> None:
        """Take the first `columns` fresh directions into the basis. Cost: one product each.

        Raises:
            NumericalError: The products are not finite, or show that A is not symmetric.
        """
        old, columns = self.size, min(columns, self.width)
        size, known = old + columns, old + self.width
        product = self.A.matmat(self._rows[old:size].T).detach()
        self.products += columns
        self.scale = max(self.scale, float(column_norms(product).max()))
        split = orthonormalise(product, self._rows[:known].T, self.floor)
        found = split.fresh.shape[1]
        self._rows[known : known + found] = split.fresh.T
        above, corner, beside = split.overlap[:old], split.overlap[old:size], split.overlap[size:]
        taken, left = self.coupling[:columns], self.coupling[columns:]
        self._check_symmetry(above - taken.T, corner - corner.T)
        self.raw = _blocks([[self.raw, above], [taken, corner]])
        self.coupling = _blocks([[left, beside], [self._zeros(found, old), split.coupling]])

    def inject(self, columns: Float[Tensor, "n b"]) -> None:
        """Put directions that the products have not led to first in N, as far as there is room. Cost: no product."""
        size, known = self.size, self.size + self.width
        found = orthonormalise(columns, self._rows[:known].T, room=self._rows.shape[0] - known).fresh
        count = found.shape[1]
        self._rows[size : known + count] = torch.cat([found.T, self._rows[size:known]])
        self.coupling = torch.cat([self._zeros(count, size), self.coupling])

    def turn(self, coefficients: Float[Tensor, "m p"]) -> None:
        """Turn N so that its first columns carry the most of the residuals of p combinations of the basis."""
        rotation = torch.linalg.svd(self.coupling @ coefficients).U
        self.coupling = rotation.T @ self.coupling
        self._rows[self.size : self.size + self.width] = rotation.T.to(self.A.dtype) @ self.fresh.T

    def ritz(self) -> Ritz:
        """The Ritz pairs of the present basis. Cost: an eigendecomposition of T."""
        values, coefficients = torch.linalg.eigh(self.projected)
        outside = column_norms(self.coupling @ coefficients)
        inside = column_norms(self.raw @ coefficients - coefficients * values)
        return Ritz(values, coefficients, torch.hypot(inside, outside), outside)

    def restart(self, coefficients: Float[Tensor, "m p"]) -> None:
        """Keep of the basis only p combinations that are eigenvectors of T, and all of N."""
        # Combining rounds a little at every restart; QR keeps that from adding up over hundreds of them.
        combined, triangle = torch.linalg.qr(self.basis @ coefficients.to(self.A.dtype))
        kept, fresh = coefficients.shape[1], self.fresh.T.clone()
        self._rows[:kept] = (combined * torch.diagonal(triangle).sign()).T
        self._rows[kept : kept + self.width] = fresh
        moved = self.raw @ coefficients
        self.raw = coefficients.T @ moved
        lost = float(torch.linalg.matrix_norm(moved - coefficients @ self.raw))
        self.drift = math.hypot(self.drift, lost) if lost > self.floor else self.drift
        self.coupling = self.coupling @ coefficients

    def state(self) -> dict[str, Tensor]:
        """All that a process on the same map needs to go on from here with the same bits."""
        numbers = torch.tensor([float(self.products), self.scale, self.drift], dtype=torch.float64)
        rows = self._rows[: self.size + self.width]
        return {"rows": rows, "raw": self.raw, "coupling": self.coupling, "numbers": numbers}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take over the state of another process. The tensors are copied."""
        self.raw, self.coupling = (state[name].to(self.A.device) for name in ("raw", "coupling"))
        self._rows[: self.size + self.width] = state["rows"].to(self.A.device)
        products, self.scale, self.drift = state["numbers"].tolist()
        self.products = int(products)

    def _zeros(self, rows: int, columns: int) -> Tensor:
        return torch.zeros(rows, columns, dtype=torch.float64, device=self.A.device)

    def _check_symmetry(self, *differences: Tensor) -> None:
        # What T has above its diagonal it must have below. Products by finite differences are off by eps^(1/3)
        # of |A|, so only more than eps^(1/4) refutes the claim.
        worst = max((float(d.abs().max()) for d in differences if d.numel()), default=0.0)
        if worst > torch.finfo(self.A.dtype).eps ** 0.25 * self.scale:
            raise NumericalError(
                f"{self.A} is declared symmetric",
                f"products that differ from their transposes by {worst / self.scale:.2g} of its norm",
                "Correct the product, or pass the symmetric part (A + A.T) * 0.5.",
            )


def _blocks(rows: list[list[Tensor]]) -> Tensor:
    """The matrix of these blocks."""
    return torch.cat([torch.cat(row, dim=1) for row in rows])
