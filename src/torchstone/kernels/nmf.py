"""Non-negative matrix factorisation: how well few non-negative parts make up a non-negative matrix."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.errors import NumericalError, SettingError


@dataclass(frozen=True)
class NonNegativeFactors:
    """A product U V of non-negative matrices near a matrix A.

    Attributes:
        left: U, (n, k).
        right: V, (k, d).
        error: Relative distance |A - U V|_F / |A|_F.
    """

    left: Float[Tensor, "n k"]
    right: Float[Tensor, "k d"]
    error: float

    @property
    def product(self) -> Float[Tensor, "n d"]:
        """U V."""
        return self.left @ self.right


def nmf(
    matrix: Float[Tensor, "n d"], rank: int, *, iterations: int = 200, tolerance: float = 1e-4
) -> NonNegativeFactors:
    r"""Non-negative U (n, k) and V (k, d) with small :math:`\|A - UV\|_F`.

    Coordinate descent from the truncated singular value decomposition with its negative parts cut off (NNDSVDa), so that the
    same matrix always has the same factors. The problem is not convex: it is a local minimum, never below the error of the
    truncated singular value decomposition of the same rank.

    Cost: O(n d k) an iteration, in float64.

    Args:
        matrix: A, non-negative and finite.
        rank: k, from 1 to min(n, d).
        iterations: At most so many.
        tolerance: Relative progress below which it stops.

    Returns:
        The factors, float64; zeros for a matrix of zeros.

    Raises:
        SettingError: Not a matrix, or a rank out of range.
        NumericalError: Negative, NaN or infinite entries.

    Example:
        >>> import torch
        >>> parts = torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 1.0]])
        >>> nmf(torch.tensor([[1.0, 2.0], [3.0, 0.5], [1.0, 1.0]]) @ parts, 2, tolerance=1e-8).error < 1e-3
        True

    Source: Lee & Seung 1999; Cichocki & Phan 2009 (coordinate descent); Boutsidis & Gallopoulos 2008 (the start).
    """
    from sklearn.decomposition import NMF
    from sklearn.exceptions import ConvergenceWarning

    if matrix.ndim != 2 or not 1 <= rank <= min(matrix.shape):
        raise SettingError(
            "nmf needs a matrix and a rank from 1 to its smaller side",
            f"shape {tuple(matrix.shape)}, rank {rank}",
            "Flatten all but the features, and lower the rank.",
        )
    a = matrix.detach().double().cpu()
    if not bool(torch.isfinite(a).all()) or bool((a < 0).any()):
        raise NumericalError(
            "nmf needs finite entries that are not negative", "others", "Take a layer behind a ReLU."
        )
    scale = float(a.max())
    if scale == 0:
        return NonNegativeFactors(a.new_zeros(len(a), rank), a.new_zeros(rank, a.shape[1]), 0.0)
    make: Any = NMF  # its number of components is an int or "auto"
    model = make(rank, init="nndsvda", max_iter=iterations, tol=tolerance, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # stopping early is part of the contract
        left = torch.from_numpy(model.fit_transform((a / scale).numpy()))
    right = torch.from_numpy(model.components_) * scale
    return NonNegativeFactors(left, right, float((a - left @ right).norm() / a.norm()))


def truncated_svd(matrix: Float[Tensor, "n d"], rank: int) -> Float[Tensor, "n d"]:
    """The nearest matrix of a rank in the Frobenius norm, float64: principal components without centring.

    Raises:
        SettingError: Not a matrix, or a rank out of range.

    Source: Eckart & Young 1936.
    """
    if matrix.ndim != 2 or not 1 <= rank <= min(matrix.shape):
        raise SettingError(
            "truncated_svd needs a matrix and a rank from 1 to its smaller side",
            f"shape {tuple(matrix.shape)}, rank {rank}",
            "Lower the rank.",
        )
    u, s, v = torch.linalg.svd(matrix.detach().double().cpu(), full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ v[:rank]
