"""Inner products of single examples' gradients in one parameter, by whichever way multiplies least."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.operators.example_gradients.rows import OuterRows, Rows

GRAM_BYTES = 2**27


@torch.no_grad()
def gram_of(left: Rows, right: Rows, memory_bytes: int = GRAM_BYTES) -> Float[Tensor, "n c m d"]:
    r"""g_nc . h_md for all pairs of gradients in one parameter.

    With g_nc = sum_t u_nct v_nt^T (a x b entries) and h_md the same of u', v' over T' positions:

    - one position: (u_nc . u'_md) (v_n . v'_m), and no gradient is formed;
    - few positions: sum_tt' (u_nct . u'_mdt') (v_nt . v'_mt'), of T T' (C D a + b) multiplications a pair of examples;
    - many positions: of formed gradients, of C D a b multiplications a pair, as many examples at once as fit.

    Products are made in the network's type, half precision in float32; sums over positions and groups, and the result,
    are in float64.

    Args:
        left: C gradients of each of N examples.
        right: D gradients of each of M examples, in the same parameter.
        memory_bytes: For what is needed between.

    Source: Goodfellow 2015, arXiv:1510.01799; Novak, Sohl-Dickstein & Schoenholz 2022, ICML, section 3.2 (structured
    derivatives).
    """
    if (
        isinstance(left, OuterRows)
        and isinstance(right, OuterRows)
        and left.pairs_with(right)
        and pairing_is_cheaper(left, right)
    ):
        return _of_factors(left, right, memory_bytes)
    return _of_formed(left, right, memory_bytes)


def _of_factors(left: OuterRows, right: OuterRows, memory_bytes: int) -> Float[Tensor, "n c m d"]:
    (n, columns), (m, others) = left.counts, right.counts
    total = torch.zeros(n, columns, m, others, dtype=torch.float64, device=left.signals.device)
    each = 24 * columns * others * left.signals.shape[3] * right.signals.shape[3]
    for rows, cols in _tiles(n, m, memory_bytes // max(1, each)):
        total[rows, :, cols] = _of_pairs(left.take(rows), right.take(cols))
    return total


def _of_formed(left: Rows, right: Rows, memory_bytes: int) -> Float[Tensor, "n c m d"]:
    (n, columns), (m, others) = left.counts, right.counts
    each = max(8 * left.numel * columns, 8 * right.numel * others)
    at_once = memory_bytes // 2 // max(1, each)
    bands = []
    for cols in _chunks(m, at_once):
        second = right.take(cols).formed()
        blocks = []
        for rows in _chunks(n, at_once):
            first = left.take(rows).formed()
            product = first.flatten(0, 1) @ second.flatten(0, 1).T.to(first.dtype)
            blocks.append(product.double().reshape(len(first), columns, len(second), others))
        bands.append(torch.cat(blocks))
    return torch.cat(bands, dim=2)


def pairing_is_cheaper(left: OuterRows, right: OuterRows, columns: int | None = None) -> bool:
    """Whether the products of factors take fewer multiplications than those of formed gradients, for a pair.

    Args:
        left: Some gradients.
        right: Others.
        columns: Gradients an example on either side, where that will be another number.
    """
    positions = left.signals.shape[3] * right.signals.shape[3]
    pairs = left.counts[1] * right.counts[1] if columns is None else columns**2
    groups, width = left.signals.shape[2], left.width
    factor = left.numel / max(1, width * groups)
    comparing = 1.0 if left.outer.one_hot else float(width)
    return positions == 1 or positions * (pairs * factor + comparing) < pairs * factor * width


def _of_pairs(left: OuterRows, right: OuterRows) -> Float[Tensor, "n c m d"]:
    (n, columns), (m, others) = left.counts, right.counts
    groups, first, second = left.signals.shape[2], left.signals.shape[3], right.signals.shape[3]
    total = torch.zeros(n, columns, m, others, dtype=torch.float64, device=left.signals.device)
    for group in range(groups):
        u, w = left.signals[:, :, group], right.signals[:, :, group]
        of_signals = u.flatten(0, 2) @ w.flatten(0, 2).T
        of_signals = of_signals.reshape(n, columns, first, m, others, second)
        of_activations = _activation_products(left, right, group)[:, None, :, :, None]
        if first == second == 1:
            total += (of_signals * of_activations).reshape(n, columns, m, others)
        else:
            total += (of_signals * of_activations).sum((2, 5), dtype=torch.float64)
    return total


def _activation_products(left: OuterRows, right: OuterRows, group: int) -> Float[Tensor, "n t m s"]:
    """v_nt . v'_ms."""
    v, w = left.activations[:, group], right.activations[:, group]
    if left.outer.one_hot:
        return (v[:, :, None, None] == w).to(left.signals.dtype)
    (n, t), (m, s) = v.shape[:2], w.shape[:2]
    return (v.flatten(0, 1) @ w.flatten(0, 1).T).reshape(n, t, m, s)


def _tiles(n: int, m: int, pairs: int) -> list[tuple[slice, slice]]:
    """Blocks of at most so many pairs."""
    width = min(m, max(1, pairs // max(1, min(n, 64))))
    return [(rows, cols) for cols in _chunks(m, width) for rows in _chunks(n, max(1, pairs // width))]


def _chunks(count: int, size: int) -> list[slice]:
    size = max(1, size)
    return [slice(start, min(count, start + size)) for start in range(0, count, size)]
