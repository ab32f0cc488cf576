"""Gram-Schmidt of a block of vectors against a basis, repeated until nothing of the basis is left in it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

_PASSES = 5
_KEPT = 0.5  # a pass that leaves this much of every direction has found nothing to remove


class Split(NamedTuple):
    """block = basis @ overlap + fresh @ coupling, with `fresh` orthonormal and orthogonal to the basis."""

    fresh: Float[Tensor, "n r"]
    overlap: Float[Tensor, "m b"]  # float64
    coupling: Float[Tensor, "r b"]  # float64


def orthonormalise(
    block: Float[Tensor, "n b"], basis: Float[Tensor, "n m"], floor: float = 0.0, room: int | None = None
) -> Split:
    """Split a block into its part inside the span of an orthonormal basis and an orthonormal rest.

    Classical Gram-Schmidt, then Householder QR of the rest, repeated on the orthonormal result. Normalising between the
    passes is what makes two of them enough even where the rest is tiny: the second works on a unit vector. Directions
    of the rest no longer than `floor` are dropped (by the singular values of the coupling), so rank-deficient blocks
    shrink; with floor = 0 only exact zeros are.

    Cost: 4 n m b flops a pass, two passes and seldom a third; memory n b.

    Args:
        block: Columns (n, b).
        basis: Orthonormal columns (n, m); m may be 0.
        floor: Length up to which a direction counts as rounding error.
        room: At most this many fresh directions, the longest ones; None for n - m.

    Returns:
        fresh (n, r), r <= b, in the block's dtype; overlap (m, b) and coupling (r, b) in float64.

    Source: Giraud, Langou, Rozloznik & van den Eshof 2005 ("twice is enough"); Golub & Van Loan, Matrix Computations
    (4th ed.), section 5.4.6, for the rank by singular values.
    """
    room = block.shape[0] - basis.shape[1] if room is None else room
    width = block.shape[1]
    overlap = torch.zeros(basis.shape[1], width, dtype=torch.float64, device=block.device)
    coupling = torch.eye(width, dtype=torch.float64, device=block.device)
    fresh = block
    for done in range(_PASSES):
        inside = basis.T @ fresh
        overlap = overlap + inside.double() @ coupling
        fresh, triangle = torch.linalg.qr(fresh - basis @ inside)
        triangle = triangle.double()
        shrunk = torch.linalg.svdvals(triangle)
        fresh, coupling = _drop_short(fresh, triangle @ coupling, floor, room)
        if fresh.shape[1] == 0 or (done > 0 and bool(shrunk[-1] > _KEPT)):
            break
    signs = torch.where(torch.diagonal(coupling) < 0, -1.0, 1.0)  # a single vector couples positively
    return Split(fresh * signs.to(fresh.dtype), overlap, signs[:, None] * coupling)


def _drop_short(fresh: Tensor, coupling: Tensor, floor: float, room: int) -> tuple[Tensor, Tensor]:
    """Only the directions of fresh @ coupling that are longer than `floor`, at most `room` of them."""
    left, lengths, right = torch.linalg.svd(coupling, full_matrices=False)
    rank = min(int((lengths > floor).sum()), room)
    if rank == fresh.shape[1]:
        return fresh, coupling
    return fresh @ left[:, :rank].to(fresh.dtype), lengths[:rank, None] * right[:rank]


def column_norms(columns: Float[Tensor, "n k"]) -> Float[Tensor, " k"]:
    """Euclidean norms (k,) in float64, without the overflow or underflow of squaring huge or tiny entries."""
    if columns.shape[0] == 0:
        return torch.zeros(columns.shape[1], dtype=torch.float64, device=columns.device)
    peak = columns.abs().amax(dim=0)
    scaled = columns / torch.where(peak > 0, peak, torch.ones_like(peak))
    return peak.double() * torch.linalg.vector_norm(scaled, dim=0, dtype=torch.float64)
