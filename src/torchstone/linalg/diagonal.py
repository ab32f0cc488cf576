"""A stochastic estimate of a linear map's diagonal, with the error of every entry."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.linalg.as_linear_map import as_linear_map
from torchstone.linalg.linear_map import LinearMap, require_square
from torchstone.linalg.probes import draw_probes
from torchstone.linalg.sampling import require_at_least


@dataclass(frozen=True)
class DiagonalEstimate:
    """The entries of a diagonal, each the mean of unbiased samples, or exactly.

    Attributes:
        values: Estimates (n,) of a_ii, in float64.
        standard_errors: Of the values (n,): sample standard deviations over sqrt(probes) where samples are independent,
            more where they are correlated; infinite for a single probe, 0 for an exact diagonal.
        probes: Number of samples of every entry; 0 for an exact diagonal.
        products: Matrix-vector products spent.
    """

    values: Float[Tensor, " n"]
    standard_errors: Float[Tensor, " n"]
    probes: int
    products: int


def hutchinson_diagonal(
    A: LinearMap | Any, *, probes: int, generator: torch.Generator, block: int = 10
) -> DiagonalEstimate:
    """Estimate the diagonal from products with random signs.

    a_ii = E[x_i (A x)_i] for x in {-1, 1}^n with independent entries. Unbiased, with the variance
    sum_{j != i} a_ij^2 a probe, so exact for diagonal A. A need not be symmetric. Gaussian probes are not offered:
    their variance is never smaller.

    Cost: one product a probe, `block` at a time; memory 3 block vectors and two in float64.

    Args:
        A: A square map, or what `as_linear_map` takes.
        probes: Number of probes, at least 1.
        generator: Draws the signs.
        block: Columns of a product.

    Raises:
        SettingError: Not square, probes < 1 or block < 1.
        NumericalError: Products with NaN or Inf.

    >>> hutchinson_diagonal(torch.eye(2), probes=2, generator=torch.Generator()).values.tolist()
    [1.0, 1.0]

    Source: Bekas, Kokiopoulou & Saad 2007, Applied Numerical Mathematics 57, section 2.
    """
    A = as_linear_map(A)
    require_square(A, "hutchinson_diagonal")
    for name, value in (("probes", probes), ("block", block)):
        require_at_least(name, value, 1)
    mean = torch.zeros(A.shape[0], dtype=torch.float64, device=A.device)
    squares = torch.zeros_like(mean)
    for done in range(0, probes, block):
        X = draw_probes(A, min(block, probes - done), generator, "rademacher")
        samples = (X * A.matmat(X).detach()).double()
        # Merges two sets' means and sums of squared deviations without cancellation (Chan, Golub & LeVeque 1983).
        new, total = X.shape[1], done + X.shape[1]
        step = samples.mean(dim=1) - mean
        squares += (samples - samples.mean(dim=1, keepdim=True)).square().sum(dim=1)
        squares += step.square() * (done * new / total)
        mean += step * (new / total)
    infinite = torch.full_like(mean, math.inf)
    errors = infinite if probes == 1 else (squares / (probes - 1) / probes).sqrt()
    return DiagonalEstimate(mean, errors, probes, probes)
