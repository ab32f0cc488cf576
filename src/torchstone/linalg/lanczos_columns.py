"""Lanczos from several vectors at once, each with its own Krylov space: the coefficients alone."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.errors import NumericalError
from torchstone.linalg.linear_map import LinearMap
from torchstone.linalg.orthonormalise import column_norms

_ROUNDING = 10.0  # directions shorter than this many eps |A| are rounding error
_PASSES = 5
_KEPT = 0.5  # a pass that leaves this much of every direction has found nothing to remove


class Tridiagonal(NamedTuple):
    """alpha (m,) and beta (m - 1,) of one start in float64 on the CPU; whether its Krylov space ended there."""

    diagonal: Float[Tensor, " m"]
    off_diagonal: Float[Tensor, " m-1"]
    breakdown: bool

    def leading(self, count: int) -> Float[Tensor, "c c"]:
        """The leading block of T as a matrix."""
        beside = self.off_diagonal[: count - 1]
        return torch.diag(self.diagonal[:count]) + torch.diag(beside, 1) + torch.diag(beside, -1)


def lanczos_columns(A: LinearMap, starts: Float[Tensor, "n b"], steps: int) -> list[Tridiagonal]:
    """Tridiagonalise a symmetric map on the Krylov space of every column, as `lanczos` does for one.

    Full reorthogonalisation of each column against its own basis, and the same threshold for a breakdown. The columns
    share nothing but products, so this is not block Lanczos: every column has its own Gauss rule.

    Cost: at most `steps` products of b columns and 8 n b m^2 flops; memory (steps + 3) n b.

    Args:
        A: Declared symmetric.
        starts: Columns (n, b), none of them zero.
        steps: At most this many.

    Raises:
        NumericalError: Products with NaN or Inf, or that are not symmetric.

    Source: as for `lanczos`.
    """
    n, count = starts.shape
    steps, eps = min(steps, n), torch.finfo(A.dtype).eps
    rows = torch.zeros(count, steps, n, dtype=A.dtype, device=A.device)
    diagonal, beside = (torch.zeros(count, steps, dtype=torch.float64, device=A.device) for _ in range(2))
    length = torch.full((count,), steps, device=A.device)
    scale = torch.zeros(count, dtype=torch.float64, device=A.device)
    alive = torch.ones(count, dtype=torch.bool, device=A.device)
    fresh = (starts / column_norms(starts).to(A.dtype)).T.contiguous()
    for j in range(steps):
        rows[:, j] = fresh
        image = torch.zeros_like(fresh)
        image[alive] = A.matmat(fresh[alive].T).detach().T
        scale = torch.maximum(scale, column_norms(image.T))
        overlap, rest, fresh = _split(image, rows[:, : j + 1])
        _check_symmetry(A, overlap, beside, scale)
        diagonal[:, j], beside[:, j] = overlap[:, j], rest
        ended = alive & (rest <= _ROUNDING * eps * scale)
        length[ended] = j + 1
        alive = alive & ~ended
        if not bool(alive.any()):
            break
    ends = length.tolist()
    whole = [end < steps or end == n or not bool(on) for end, on in zip(ends, alive, strict=True)]
    diagonal, beside = diagonal.cpu(), beside.cpu()
    return [Tridiagonal(diagonal[i, :m], beside[i, : m - 1], whole[i]) for i, m in enumerate(ends)]


def _split(vectors: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Coefficients (b, m) in each one's basis rows (b, m, n), the length (b,) of the rest, and the rest normalised.

    Gram-Schmidt, repeated on the normalised rest: see `orthonormalise`.
    """
    overlap = torch.zeros(rows.shape[:2], dtype=torch.float64, device=rows.device)
    rest = torch.ones(rows.shape[0], dtype=torch.float64, device=rows.device)
    for done in range(_PASSES):
        inside = torch.bmm(rows, vectors[:, :, None])
        overlap += inside[:, :, 0].double() * rest[:, None]
        vectors = vectors - torch.bmm(inside.transpose(1, 2), rows)[:, 0]
        kept = column_norms(vectors.T)
        vectors = vectors / torch.where(kept > 0, kept, torch.ones_like(kept)).to(vectors.dtype)[:, None]
        rest = rest * kept
        if done > 0 and bool(((kept > _KEPT) | (rest == 0)).all()):
            break
    return overlap, rest, vectors


def _check_symmetry(A: LinearMap, overlap: Tensor, beside: Tensor, scale: Tensor) -> None:
    """What T has above its diagonal it must have below; see `BlockLanczos` for the tolerance."""
    expected = torch.zeros_like(overlap[:, :-1])
    if expected.shape[1]:
        expected[:, -1] = beside[:, expected.shape[1] - 1]
        gap = (overlap[:, :-1] - expected).abs().amax(dim=1)
        live = overlap.abs().amax(dim=1) > 0
        worst = float(torch.where(live, gap / scale.clamp_min(1e-300), torch.zeros_like(gap)).max())
        if worst > torch.finfo(A.dtype).eps ** 0.25:
            raise NumericalError(
                f"{A} is declared symmetric",
                f"products that differ from their transposes by {worst:.2g} of its norm",
                "Correct the product, or pass the symmetric part (A + A.T) * 0.5.",
            )
