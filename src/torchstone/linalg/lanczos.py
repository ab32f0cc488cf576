"""Lanczos tridiagonalisation of a symmetric map, with full reorthogonalisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.errors import NumericalError, SettingError
from torchstone.linalg.as_linear_map import as_linear_map
from torchstone.linalg.block_lanczos import BlockLanczos
from torchstone.linalg.linear_map import LinearMap, require_symmetric
from torchstone.linalg.probes import draw_probes
from torchstone.linalg.sampling import require_at_least


@dataclass(frozen=True)
class Tridiagonalisation:
    """A Q = Q T + r e_m^T, with Q orthonormal, T symmetric tridiagonal and Q^T r = 0.

    Attributes:
        basis: Q, columns (n, m); the first is the normalised start. In the map's dtype.
        diagonal: alpha (m,), the diagonal of T, in float64.
        off_diagonal: beta (m - 1,), above and below it, all positive, in float64.
        residual: r (n,), not normalised; zero after a breakdown. In the map's dtype.
        breakdown: Whether the basis spans an invariant space of A, so that T's eigenvalues are exact ones of A.
    """

    basis: Float[Tensor, "n m"]
    diagonal: Float[Tensor, " m"]
    off_diagonal: Float[Tensor, " m-1"]
    residual: Float[Tensor, " n"]
    breakdown: bool

    @property
    def tridiagonal(self) -> Float[Tensor, "m m"]:
        """T as a matrix (m, m)."""
        return (
            torch.diag(self.diagonal) + torch.diag(self.off_diagonal, 1) + torch.diag(self.off_diagonal, -1)
        )


def lanczos(
    A: LinearMap | Any,
    steps: int,
    *,
    generator: torch.Generator | None = None,
    start: Float[Tensor, " n"] | None = None,
) -> Tridiagonalisation:
    """Tridiagonalise a symmetric map on the Krylov space of one vector.

    Q^T A Q = T on span{q, A q, ..., A^(m-1) q}. Stops early at a breakdown: when the next direction is no longer than
    10 eps |A|, the space is invariant. One vector sees each distinct eigenvalue once, whatever its multiplicity; where
    rounding leaves a direction a little longer than that, the process goes on from it, orthogonal to all before, and
    finds further copies.

    Cost: `steps` products and 8 n m^2 flops; memory (m + 3) n.

    Args:
        A: A symmetric map, or what `as_linear_map` takes.
        steps: At most this many basis vectors m; n are enough.
        generator: Draws a Gaussian start.
        start: The start (n,) itself, of any length but zero; give this or the generator.

    Returns:
        The basis, T and the residual vector.

    Raises:
        SettingError: Not symmetric, steps < 1, neither or both of generator and start, a zero start.
        NumericalError: Products or start with NaN or Inf, or products that are not symmetric.

    >>> result = lanczos(torch.diag(torch.tensor([1.0, 2.0, 4.0])), 3, start=torch.ones(3))
    >>> torch.linalg.eigvalsh(result.tridiagonal).numpy().round(4)
    array([1., 2., 4.])

    Source: Lanczos 1950; Golub & Van Loan, Matrix Computations (4th ed.), section 10.1; Paige 1972 for why the
    orthogonality must be restored.
    """
    A = as_linear_map(A)
    require_symmetric(A, "lanczos")
    require_at_least("steps", steps, 1)
    process = BlockLanczos(A, _start(A, generator, start)[:, None], capacity=steps + 1)
    while process.size < steps and not process.exhausted:
        process.expand(1)
    residual = torch.zeros(A.shape[0], dtype=A.dtype, device=A.device)
    if not process.exhausted:
        residual = process.fresh[:, 0] * process.coupling[0, -1].to(A.dtype)
    return Tridiagonalisation(
        process.basis,
        torch.diagonal(process.projected).clone(),
        torch.diagonal(process.projected, 1).clone(),
        residual,
        process.exhausted,
    )


def _start(A: LinearMap, generator: torch.Generator | None, start: Tensor | None) -> Tensor:
    if (generator is None) == (start is None):
        raise SettingError(
            "lanczos needs either a generator or a start vector",
            "neither" if generator is None else "both",
            "Pass one of generator= and start=.",
        )
    if start is None:
        assert generator is not None
        return draw_probes(A, 1, generator)[:, 0]
    if tuple(start.shape) != (A.shape[0],) or start.dtype != A.dtype or start.device != A.device:
        raise SettingError(
            f"start must have shape ({A.shape[0]},), {A.dtype}, on {A.device}",
            f"shape {tuple(start.shape)}, {start.dtype}, on {start.device}",
            "Convert it.",
        )
    if not bool(start.isfinite().all()):
        raise NumericalError("start must be finite", "NaN or Inf in it", "Check what computed it.")
    if not bool(start.any()):
        raise SettingError("start must not be zero", "a zero vector", "Pass a generator for a random start.")
    return start.detach()
