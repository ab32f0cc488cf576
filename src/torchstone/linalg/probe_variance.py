"""The exact variance of one probe of Hutchinson's trace estimate, for matrices that are at hand."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.linalg.as_linear_map import as_linear_map
from torchstone.linalg.linear_map import LinearMap, require_square


def rademacher_variance(A: LinearMap | Any) -> float:
    """Variance of x^T A x for x of independent random signs: 2 (||B||_F^2 - sum_i b_ii^2), B = (A + A^T) / 2.

    Divide by the number of probes for the variance of the estimate. Zero for diagonal A.

    Cost: n products where A is not at hand as a matrix; memory n^2. Accuracy: exact to rounding.

    Args:
        A: A square map, or what `as_linear_map` takes.

    Raises:
        SettingError: Not square.

    >>> rademacher_variance(torch.tensor([[1.0, 3.0], [3.0, 2.0]]))
    36.0

    Source: Hutchinson 1990, section 2; Avron & Toledo 2011, J. ACM 58(2), table 1.
    """
    symmetrised = _symmetrised(A, "rademacher_variance")
    off_diagonal = symmetrised - torch.diag(torch.diagonal(symmetrised))  # no cancellation near a diagonal A
    return 2 * float(off_diagonal.square().sum())


def gaussian_variance(A: LinearMap | Any) -> float:
    """Variance of x^T A x for x of independent standard normal entries: 2 ||B||_F^2, B = (A + A^T) / 2.

    Divide by the number of probes for the variance of the estimate.

    Cost: n products where A is not at hand as a matrix; memory n^2. Accuracy: exact to rounding.

    Args:
        A: A square map, or what `as_linear_map` takes.

    Raises:
        SettingError: Not square.

    >>> gaussian_variance(torch.tensor([[1.0, 3.0], [3.0, 2.0]]))
    46.0

    Source: Avron & Toledo 2011, J. ACM 58(2), table 1.
    """
    return 2 * float(_symmetrised(A, "gaussian_variance").square().sum())


def _symmetrised(A: LinearMap | Any, routine: str) -> Float[Tensor, "n n"]:
    A = as_linear_map(A)
    require_square(A, routine)
    matrix = A.to_dense().detach().double()
    return (matrix + matrix.T) / 2
