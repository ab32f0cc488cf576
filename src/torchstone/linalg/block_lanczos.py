"""The block Lanczos process with full reorthogonalisation and thick restarts: the engine of Lanczos routines."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.errors import NumericalError
from torchstone.linalg.linear_map import LinearMap
from torchstone.linalg.orthonormalise import column_norms, orthonormalise

_ROUNDING = 10.0  # directions shorter than this many eps |A| are rounding error


class Ritz(NamedTuple):
    """Ritz values in ascending order, their coefficients in the basis, and their residual norms ||A y - theta y||."""

    values: Float[Tensor, " m"]
    coefficients: Float[Tensor, "m m"]
    residuals: Float[Tensor, " m"]


class BlockLanczos:
    """An orthonormal basis V of a block Krylov space of a symmetric A, grown a block at a time.

    Kept true all along, to rounding: A V = V T + N C, where T = V^T A V is `projected` (m, m), the orthonormal block
    N = `fresh` (n, r) comes next, and C = `coupling` (r, m). So the Ritz pair of an eigenvector s of T has the residual
    norm ||C s||, without a product. The process is exhausted when N is empty: then V spans an invariant space.

    Products are in the map's dtype; T and C are float64. A breakdown (a direction of the next block no longer than
    10 eps |A|, with |A| the longest product with a unit vector so far) shrinks the block.

    Memory: (capacity + about 3 blocks) vectors of length n.

    Args:
        A: Declared symmetric.
        start: Columns (n, b), not necessarily orthonormal.
        capacity: The largest number of basis vectors.

    Source: Golub & Underwood 1977 (block Lanczos); Wu & Simon 2000 (thick restart).
    """

    def __init__(self, A: LinearMap, start: Float[Tensor, "n b"], capacity: int) -> None:
        n = A.shape[0]
        # Stored transposed: a basis vector is contiguous, and so is any leading part of the basis.
        self._rows = torch.empty(min(capacity, n), n, dtype=A.dtype, device=A.device)
        self.A, self.size, self.products, self.scale = A, 0, 0, 0.0
        self.fresh = orthonormalise(start, self.basis).fresh
        self.projected = self._zeros(0, 0)
        self.coupling = self._zeros(self.fresh.shape[1], 0)

    @property
    def basis(self) -> Float[Tensor, "n m"]:
        """The orthonormal columns found so far: a view."""
        return self._rows[: self.size].T

    @property
    def exhausted(self) -> bool:
        """Whether the basis spans an invariant space of A."""
        return self.fresh.shape[1] == 0

    @property
    def full(self) -> bool:
        """Whether the next block no longer fits; restart first."""
        return self.size + self.fresh.shape[1] > self._rows.shape[0]

    @property
    def floor(self) -> float:
        """Length up to which a direction is taken for rounding error."""
        return _ROUNDING * torch.finfo(self.A.dtype).eps * self.scale

    def expand(self) -> None:
        """Take the next block into the basis. Cost: one product a column.

        Raises:
            NumericalError: The products are not finite, or show that A is not symmetric.
        """
        old, width = self.size, self.fresh.shape[1]
        self._rows[old : old + width] = self.fresh.T
        self.size = old + width
        product = self.A.matmat(self.fresh).detach()
        self.products += width
        self.scale = max(self.scale, float(column_norms(product).max()))
        split = orthonormalise(product, self.basis, self.floor)
        above, corner = split.overlap[:old], split.overlap[old:]
        self._check_symmetry(above - self.coupling.T, corner - corner.T)
        above, corner = (above + self.coupling.T) / 2, (corner + corner.T) / 2
        self.projected = torch.cat(
            [torch.cat([self.projected, above], dim=1), torch.cat([above.T, corner], dim=1)]
        )
        self.fresh = split.fresh
        self.coupling = torch.cat([self._zeros(split.fresh.shape[1], old), split.coupling], dim=1)

    def ritz(self) -> Ritz:
        """The Ritz pairs of the present basis. Cost: an eigendecomposition of T."""
        values, coefficients = torch.linalg.eigh(self.projected)
        return Ritz(values, coefficients, column_norms(self.coupling @ coefficients))

    def restart(self, coefficients: Float[Tensor, "m p"]) -> None:
        """Keep only p combinations of the basis that are eigenvectors of T, with what couples them to the next block."""
        # Combining rounds a little at every restart; QR keeps that from adding up over hundreds of them.
        combined, triangle = torch.linalg.qr(self.basis @ coefficients.to(self.A.dtype))
        kept = coefficients.shape[1]
        self._rows[:kept] = (combined * torch.diagonal(triangle).sign()).T
        self.size = kept
        self.projected = coefficients.T @ self.projected @ coefficients
        self.coupling = self.coupling @ coefficients

    def inject(self, block: Float[Tensor, "n b"]) -> None:
        """Add what of `block` lies outside basis and next block to the next block; the identity stays true."""
        taken = self.basis if self.exhausted else torch.cat([self.basis, self.fresh], dim=1)
        outside = orthonormalise(block, taken).fresh
        self.fresh = torch.cat([self.fresh, outside], dim=1)
        self.coupling = torch.cat([self.coupling, self._zeros(outside.shape[1], self.size)])

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
