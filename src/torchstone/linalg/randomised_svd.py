"""A low-rank approximation of any map from random products, with a bound on its error."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.errors import SettingError
from torchstone.linalg.as_linear_map import as_linear_map
from torchstone.linalg.linear_map import LinearMap
from torchstone.linalg.orthonormalise import column_norms
from torchstone.linalg.probes import draw_probes

_FAILURE = 1e-3  # chance that the error bound does not hold


@dataclass(frozen=True)
class LowRank:
    """A ~ U diag(s) V^T of rank k.

    Attributes:
        left: U, orthonormal columns (m, k), in the map's dtype.
        values: s (k,), descending, in float64. Each lies below the singular value of A of its rank, by at most
            `range_error`.
        right: V, orthonormal columns (n, k), in the map's dtype.
        error: ||A - U diag(s) V^T|| is at most this, with probability 99.9% over the probes.
        range_error: ||(I - Q Q^T) A|| of the basis found is at most this, with the same probability.
        products: Products with A and with its transpose.
    """

    left: Float[Tensor, "m k"]
    values: Float[Tensor, " k"]
    right: Float[Tensor, "n k"]
    error: float
    range_error: float
    products: int


def randomised_svd(
    A: LinearMap | Any,
    rank: int,
    *,
    generator: torch.Generator,
    oversampling: int = 10,
    power_iterations: int = 2,
    probes: int = 10,
) -> LowRank:
    """The first singular triplets of a map, from a random sample of its range.

    Q spans (A A^T)^q A Omega for a Gaussian Omega (n, k + p), orthonormalised after every product; then
    Q^T A = W diag(s) V^T and U = Q W, cut to rank k. With p >= 4 the error is within a small factor of the best,
    sigma_(k+1), in expectation (1 + sqrt(k / (p - 1)) + e sqrt(k + p) / p sqrt(min(m, n) - k))^(1 / (2 q + 1)) of it.

    The error bound is measured, not assumed: with r probes w, ||B|| <= alpha sqrt(2 / pi) max ||B w|| except with
    probability alpha^-r, here for B = (I - Q Q^T) A and alpha = 1000^(1 / r). It overestimates ||B|| by about 10 where
    the spectrum left over decays slowly. Cutting to rank k adds s_(k+1).

    Cost: (2 q + 2)(k + p) + r products, in blocks of k + p; memory (m + 2 n)(k + p). Better than Lanczos where products
    of a block are much cheaper than single ones; worse in the number of products.

    Args:
        A: Any map that knows its transpose, or what `as_linear_map` takes.
        rank: k, 1 to min(m, n).
        generator: Draws Omega and the probes.
        oversampling: p, at least 0.
        power_iterations: q, at least 0; more where singular values decay slowly.
        probes: r, at least 1.

    Raises:
        SettingError: A setting out of range, or a map that does not know its transpose.
        NumericalError: Products with NaN or Inf.

    >>> found = randomised_svd(torch.diag(torch.tensor([4.0, 3.0, 0.0, 0.0])), 2, generator=torch.Generator())
    >>> found.values.numpy().round(4), found.error < 1e-4
    (array([4., 3.]), True)

    Source: Halko, Martinsson & Tropp 2011, SIAM Review 53(2): algorithms 4.4 and 5.1, theorem 10.6, lemma 4.1.
    """
    A = as_linear_map(A)
    m, n = A.shape
    limits = {"rank": (rank, 1, min(m, n)), "oversampling": (oversampling, 0, None)}
    limits |= {"power_iterations": (power_iterations, 0, None), "probes": (probes, 1, None)}
    for name, (value, low, high) in limits.items():
        if not isinstance(value, Integral) or value < low or (high is not None and value > high):
            wanted = f"at least {low}" if high is None else f"between {low} and {high}"
            raise SettingError(f"{name} must be {wanted}", f"{value}", "Pass such a whole number.")
    width = min(rank + oversampling, m, n)
    transpose = A.T
    Q = torch.linalg.qr(A.matmat(draw_probes(A, width, generator)).detach()).Q
    for _ in range(power_iterations):
        back = torch.linalg.qr(transpose.matmat(Q).detach()).Q
        Q = torch.linalg.qr(A.matmat(back).detach()).Q
    rows = transpose.matmat(Q).detach()  # (Q^T A)^T
    V, s, W = torch.linalg.svd(rows.double(), full_matrices=False)
    sample = A.matmat(draw_probes(A, probes, generator)).detach()
    largest = float(column_norms(sample - Q @ (Q.T @ sample)).max())
    # Rounding of the products themselves, of which the probes see only what leaves the range of Q.
    rounding = 10 * torch.finfo(A.dtype).eps * float(s[0]) if len(s) else 0.0
    range_error = _FAILURE ** (-1 / probes) * math.sqrt(2 / math.pi) * largest + rounding
    if width == min(m, n):
        range_error = rounding
    cut = float(s[rank]) if len(s) > rank else 0.0
    left, right = (Q.double() @ W.T[:, :rank]).to(A.dtype), V[:, :rank].to(A.dtype)
    products = (2 * power_iterations + 2) * width + probes
    return LowRank(left, s[:rank], right, range_error + cut, range_error, products)
