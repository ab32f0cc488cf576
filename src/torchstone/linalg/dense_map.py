"""The linear map of a matrix that is at hand."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torchstone.errors import NumericalError, SettingError
from torchstone.linalg.linear_map import LinearMap


class DenseMap(LinearMap):
    """The linear map of a matrix.

    Cost of a product: 2 m n operations a column, exact to rounding; no memory of its own.

    Args:
        matrix: Strided tensor (m, n), float32 or float64. Not copied.
        symmetric: None looks: |A - A^T| <= sqrt(eps) max|A| counts as symmetric.

    Raises:
        SettingError: Not a matrix, sparse, or of another dtype.
        NumericalError: NaN or Inf in the matrix.

    >>> DenseMap(torch.tensor([[2.0, 1.0], [1.0, 3.0]])).matvec(torch.tensor([1.0, 0.0]))
    tensor([2., 1.])
    """

    def __init__(self, matrix: Tensor, symmetric: bool | None = None) -> None:
        if matrix.ndim != 2 or matrix.layout != torch.strided:
            raise SettingError(
                "DenseMap takes a strided matrix (m, n)",
                f"shape {tuple(matrix.shape)}, layout {matrix.layout}",
                "Use .to_dense(), or as_linear_map of a SciPy sparse matrix.",
            )
        if not bool(matrix.isfinite().all()):
            raise NumericalError(
                "The matrix of a DenseMap must be finite",
                f"{int((~matrix.isfinite()).sum())} NaN or Inf entries",
                "Look for overflow or a division by zero in what made it.",
            )
        if symmetric is None:
            symmetric = _looks_symmetric(matrix)
        super().__init__((matrix.shape[0], matrix.shape[1]), matrix.dtype, matrix.device, symmetric=symmetric)
        self.matrix = matrix

    def _matvec(self, x: Tensor) -> Tensor:
        return self.matrix @ x

    def _matmat(self, X: Tensor) -> Tensor:
        return self.matrix @ X

    def _transpose(self) -> LinearMap:
        return DenseMap(self.matrix.T, symmetric=False)


def _looks_symmetric(matrix: Tensor) -> bool:
    if matrix.shape[0] != matrix.shape[1] or matrix.numel() == 0 or not matrix.is_floating_point():
        return False
    asymmetry, size = (matrix - matrix.T).abs().max(), matrix.abs().max()
    return bool(asymmetry <= math.sqrt(torch.finfo(matrix.dtype).eps) * size)
