"""All singular values of a map where that is affordable, else what short Golub-Kahan processes say of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from torchstone.linalg import LinearMap, golub_kahan, singular_values


@dataclass(frozen=True)
class SingularSpectrum:
    """What is known of the n = min(rows, columns) singular values of a map.

    Args:
        shape: Rows and columns.
        mean: Mean of the squared singular values.
        spread: Their variance over their squared mean; NaN where all are zero.
        largest: Largest singular value; from below where `values` is None.
        smallest: Smallest; from above where `values` is None.
        rounding: Singular values below this are rounding errors.
        values: All of them, descending; None where they were not computed.
    """

    shape: tuple[int, int]
    mean: float
    spread: float
    largest: float
    smallest: float
    rounding: float
    values: Tensor | None = None

    @property
    def count(self) -> int:
        """Number of singular values."""
        return min(self.shape)

    @property
    def effective(self) -> float:
        """Participation ratio n / (1 + spread) = (sum s^2)^2 / sum s^4: how many directions carry the signal."""
        return self.count / (1 + self.spread)

    @property
    def exact(self) -> bool:
        """Whether all are known."""
        return self.values is not None

    @property
    def condition(self) -> float:
        """Largest over smallest, infinite for singular maps up to rounding; a lower bound where not `exact`."""
        return self.largest / self.smallest if self.smallest > self.rounding else math.inf


def singular_spectrum(
    A: LinearMap, *, dense: int, steps: int = 8, probes: int = 3, generator: torch.Generator
) -> SingularSpectrum:
    """Mean, spread and ends of the singular values of a map.

    Exact where min(m, n) <= `dense`. Else from Golub-Kahan processes A V = U B from random unit vectors v on the shorter
    side: |A v|^2 = |B e_1|^2 has the mean of the squared singular values as its expectation, and |A^T A v|^2 =
    |B^T B e_1|^2 that of their squares; the singular values of B lie between the smallest and the largest.

    Cost: min(m, n) products, or 2 probes * steps. Bias: of the spread, a ratio, O(1 / (probes n)).

    Args:
        A: A map that knows its transpose.
        dense: Up to this many singular values all are computed.
        steps: Of each process.
        probes: Number of processes.
        generator: Draws the starts.
    """
    epsilon = max(A.shape) ** 0.5 * torch.finfo(A.dtype).eps
    if min(A.shape) <= dense:
        values = singular_values(A).cpu()
        scale = float(values[0])
        # Scaled, so that fourth powers neither vanish nor overflow.
        squared = (values / scale).square() if scale > 0 else values
        mean = float(squared.mean())
        spread = float(squared.var(correction=0)) / mean**2 if scale > 0 else math.nan
        least = float(values[-1])
        return SingularSpectrum(A.shape, mean * scale * scale, spread, scale, least, epsilon * scale, values)
    narrow = A if A.shape[0] >= A.shape[1] else A.T
    first, second, ends = [], [], []
    for _ in range(probes):
        B = golub_kahan(narrow, steps, generator=generator).bidiagonal.cpu()
        e = torch.zeros(len(B), dtype=B.dtype)
        e[0] = 1
        image = B @ e
        first.append(image.square().sum())
        second.append((B.T @ image).square().sum())
        ends.append(torch.linalg.svdvals(B))
    mean, fourth = float(torch.stack(first).mean()), float(torch.stack(second).mean())
    spread = max(0.0, fourth / mean**2 - 1) if mean > 0 else math.nan
    largest = max(float(found[0]) for found in ends)
    smallest = min(float(found[-1]) for found in ends)
    return SingularSpectrum(A.shape, mean, spread, largest, smallest, epsilon * largest)
