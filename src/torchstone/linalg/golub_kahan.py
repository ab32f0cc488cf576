"""The Golub-Kahan process with full reorthogonalisation and thick restarts: the engine of singular triplets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.errors import NumericalError, SettingError
from torchstone.linalg.as_linear_map import as_linear_map
from torchstone.linalg.linear_map import LinearMap
from torchstone.linalg.orthonormalise import column_norms, orthonormalise
from torchstone.linalg.probes import draw_probes
from torchstone.linalg.sampling import require_at_least

_ROUNDING = 10.0  # directions shorter than this many eps |A| are rounding error


class RitzTriplets(NamedTuple):
    """Singular values of B, descending, coefficients of the vectors in U and V, and ||A^T u - sigma v||."""

    values: Float[Tensor, " j"]
    left: Float[Tensor, "j j"]
    right: Float[Tensor, "j j"]
    residuals: Float[Tensor, " j"]


class GolubKahan:
    """Orthonormal bases V (n, j) and U (m, j) of the Krylov spaces of A^T A and A A^T, for m >= n.

    Kept true all along, to rounding: A V = U B with B (j, j) upper triangular before a restart, bidiagonal while N has
    one column, and A^T U = V B^T + N C, where the orthonormal columns N (n, r) come next. So for a singular triplet
    (p, sigma, q) of B, u = U p and v = V q, A v = sigma u holds and A^T u - sigma v = N C p.

    Where A maps a direction into the span of U (A is singular), a random u takes the place with alpha = 0.

    Cost: a product with A and one with its transpose a step. Memory: `capacity` vectors of length m + n.

    Args:
        A: A map with at least as many rows as columns that knows its transpose.
        start: Columns (n, b).
        capacity: The largest number of columns of V and N together.
        generator: Draws left vectors where A is singular.

    Source: Golub & Kahan 1965; full reorthogonalisation and thick restarts: Baglama & Reichel 2005, SIAM J. Sci.
    Comput. 27(1).
    """

    def __init__(
        self, A: LinearMap, start: Float[Tensor, "n b"], capacity: int, generator: torch.Generator
    ) -> None:
        m, n = A.shape
        if m < n:
            raise SettingError("GolubKahan needs at least as many rows as columns", f"{A}", "Pass A.T.")
        self.A, self.transpose, self.generator = A, A.T, generator
        self._rows = torch.empty(min(capacity, n), n, dtype=A.dtype, device=A.device)
        self._left = torch.empty(min(capacity, n), m, dtype=A.dtype, device=A.device)
        self.products, self.scale = 0, 0.0
        self.projected, self.coupling = self._zeros(0, 0), self._zeros(0, 0)
        self.inject(start)

    @property
    def size(self) -> int:
        """Number j of basis vectors."""
        return self.projected.shape[0]

    @property
    def width(self) -> int:
        """Number r of fresh directions."""
        return self.coupling.shape[0]

    @property
    def right(self) -> Float[Tensor, "n j"]:
        """V: a view that the next restart overwrites."""
        return self._rows[: self.size].T

    @property
    def left(self) -> Float[Tensor, "m j"]:
        """U: a view that the next restart overwrites."""
        return self._left[: self.size].T

    @property
    def fresh(self) -> Float[Tensor, "n r"]:
        """N: a view that the next expansion overwrites."""
        return self._rows[self.size : self.size + self.width].T

    @property
    def exhausted(self) -> bool:
        """Whether V spans an invariant space of A^T A."""
        return self.width == 0

    @property
    def floor(self) -> float:
        """Length up to which a direction is taken for rounding error."""
        return _ROUNDING * torch.finfo(self.A.dtype).eps * self.scale

    def has_room(self, steps: int = 1) -> bool:
        """Whether so many expansions fit; restart first where they do not."""
        return min(self.size + self.width + steps, self.A.shape[1]) <= self._rows.shape[0]

    def inject(self, columns: Float[Tensor, "n b"]) -> int:
        """Put directions first in N, as far as there is room; how many those are. Cost: no product."""
        size, known = self.size, self.size + self.width
        found = orthonormalise(columns, self._rows[:known].T, room=self._rows.shape[0] - known).fresh
        count = found.shape[1]
        self._rows[size : known + count] = torch.cat([found.T, self._rows[size:known]])
        self.coupling = torch.cat([self._zeros(count, size), self.coupling])
        return count

    def expand(self) -> None:
        """Take the first fresh direction into the basis. Cost: two products.

        Raises:
            NumericalError: The products are not finite, or those of the transpose belong to another map.
        """
        size, known = self.size, self.size + self.width
        image = self.A.matvec(self._rows[size]).detach()[:, None]
        self.scale = max(self.scale, float(column_norms(image)))
        forward = orthonormalise(image, self.left, self.floor)
        length, u = forward.coupling, forward.fresh
        if u.shape[1] == 0:
            length = self._zeros(1, 1)
            u = orthonormalise(draw_probes(self.transpose, 1, self.generator), self.left).fresh
        self._left[size] = u[:, 0]
        back = self.transpose.matvec(u[:, 0].contiguous()).detach()[:, None]
        self.scale = max(self.scale, float(column_norms(back)))
        split = orthonormalise(back, self._rows[:known].T, self.floor)
        self.products += 2
        self._check_transpose(
            forward.overlap[:, 0] - self.coupling[0], split.overlap[: size + 1, 0], length[0, 0]
        )
        found = split.fresh.shape[1]
        self._rows[known : known + found] = split.fresh.T
        top = torch.cat([self.projected, forward.overlap], dim=1)
        self.projected = torch.cat([top, torch.cat([self._zeros(1, size), length], dim=1)])
        beside = torch.cat([self.coupling[1:], split.overlap[size + 1 :]], dim=1)
        below = torch.cat([self._zeros(found, size), split.coupling], dim=1)
        self.coupling = torch.cat([beside, below])

    def turn(self, coefficients: Float[Tensor, "j p"]) -> None:
        """Turn N so that its first columns carry the most of the residuals of p combinations of U."""
        rotation = torch.linalg.svd(self.coupling @ coefficients).U
        self.coupling = rotation.T @ self.coupling
        self._rows[self.size : self.size + self.width] = rotation.T.to(self.A.dtype) @ self.fresh.T

    def ritz(self) -> RitzTriplets:
        """The singular triplets of B. Cost: its decomposition."""
        P, values, Q = torch.linalg.svd(self.projected)
        return RitzTriplets(values, P, Q.T, column_norms(self.coupling @ P))

    def restart(self, ritz: RitzTriplets, chosen: Tensor) -> None:
        """Keep of both bases only these Ritz vectors, and all of N."""
        kept, fresh, dtype = len(chosen), self.fresh.T.clone(), self.A.dtype
        for rows, basis, coefficients in (
            (self._rows, self.right, ritz.right[:, chosen]),
            (self._left, self.left, ritz.left[:, chosen]),
        ):
            # QR keeps the rounding of the combinations from adding up over hundreds of restarts.
            combined, triangle = torch.linalg.qr(basis @ coefficients.to(dtype))
            rows[:kept] = (combined * torch.diagonal(triangle).sign()).T
        self.coupling = self.coupling @ ritz.left[:, chosen]
        self.projected = torch.diag(ritz.values[chosen])
        self._rows[kept : kept + self.width] = fresh

    def _zeros(self, rows: int, columns: int) -> Tensor:
        return torch.zeros(rows, columns, dtype=torch.float64, device=self.A.device)

    def _check_transpose(self, left: Tensor, right: Tensor, length: Tensor) -> None:
        # u^T A v and v^T A^T u are one number; products by finite differences are off by eps^(1/3).
        right = right.clone()
        right[-1] -= length
        worst = max(float(left.abs().max()) if len(left) else 0.0, float(right.abs().max()))
        if worst > torch.finfo(self.A.dtype).eps ** 0.25 * self.scale:
            raise NumericalError(
                f"The transpose of {self.A} is that of the same map",
                f"products that differ by {worst / self.scale:.2g} of its norm",
                "Correct the function passed as transpose=.",
            )


@dataclass(frozen=True)
class Bidiagonalisation:
    """A V = U B and A^T U = V B^T + r e_j^T, with U and V orthonormal and V^T r = 0.

    Attributes:
        left: U, columns (m, j), in the map's dtype.
        bidiagonal: B (j, j), upper bidiagonal, in float64.
        right: V, columns (n, j), in the map's dtype.
        residual: r (n,); zero after a breakdown.
        breakdown: Whether V spans an invariant space of A^T A, so that B's singular values are exact ones of A.
    """

    left: Float[Tensor, "m j"]
    bidiagonal: Float[Tensor, "j j"]
    right: Float[Tensor, "n j"]
    residual: Float[Tensor, " n"]
    breakdown: bool


def golub_kahan(A: LinearMap | Any, steps: int, *, generator: torch.Generator) -> Bidiagonalisation:
    """Bidiagonalise a map with at least as many rows as columns, from a random start.

    Stops early at a breakdown: when the next direction is no longer than 10 eps |A|.

    Accuracy: the identities and the orthonormality hold to rounding.

    Cost: `steps` products with A and as many with its transpose, 8 (m + n) steps^2 flops; memory steps (m + n).

    Args:
        A: A map that knows its transpose, or what `as_linear_map` takes.
        steps: At most this many basis vectors, at least 1.
        generator: Draws the start.

    Raises:
        SettingError: More columns than rows, steps < 1, or a map that does not know its transpose.
        NumericalError: Products with NaN or Inf, or of another map's transpose.

    >>> found = golub_kahan(torch.diag(torch.tensor([3.0, 2.0, 1.0])), 3, generator=torch.Generator())
    >>> torch.linalg.svdvals(found.bidiagonal).numpy().round(4)
    array([3., 2., 1.])

    Source: Golub & Kahan 1965, SIAM J. Numer. Anal. 2(2).
    """
    A = as_linear_map(A)
    require_at_least("steps", steps, 1)
    process = GolubKahan(A, draw_probes(A, 1, generator), steps + 1, generator)
    while process.size < steps and not process.exhausted:
        process.expand()
    residual = torch.zeros(A.shape[1], dtype=A.dtype, device=A.device)
    if not process.exhausted:
        residual = process.fresh[:, 0] * process.coupling[0, -1].to(A.dtype)
    return Bidiagonalisation(process.left, process.projected, process.right, residual, process.exhausted)
