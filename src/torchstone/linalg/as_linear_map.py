"""One way in for everything that is a linear map: tensors, SciPy's matrices and operators, and our own maps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchstone.errors import SettingError
from torchstone.linalg.dense_map import DenseMap
from torchstone.linalg.function_map import FunctionMap
from torchstone.linalg.linear_map import LinearMap


def as_linear_map(source: Any, *, symmetric: bool | None = None) -> LinearMap:
    """A `LinearMap` with the products of `source`.

    Cost: no product; one look at the entries of a matrix, for NaN and symmetry. Bias: none, products are those of `source`.

    Args:
        source: A `LinearMap`, a matrix (strided tensor or NumPy array, float32 or float64), a SciPy sparse matrix or
            array, or a `scipy.sparse.linalg.LinearOperator`. SciPy's products run on the CPU; integers and booleans
            become float64 there.
        symmetric: Whether it is symmetric. None looks where the entries are at hand, keeps what a `LinearMap`
            declares, and takes a `LinearOperator` for not symmetric.

    Returns:
        The map; `source` itself where it is one already and nothing is declared anew.

    Raises:
        SettingError: Something else, or a dtype other than float32 and float64.
        NumericalError: A matrix with NaN or Inf.

    >>> as_linear_map(torch.eye(2)).symmetric
    True
    """
    if isinstance(source, LinearMap):
        return source.as_symmetric() if symmetric and not source.symmetric else source
    if isinstance(source, Tensor):
        return DenseMap(source, symmetric)
    import numpy as np

    if isinstance(source, np.ndarray):
        return DenseMap(torch.from_numpy(np.ascontiguousarray(source)), symmetric)
    from scipy.sparse import issparse
    from scipy.sparse.linalg import LinearOperator

    if issparse(source):
        compressed = source.tocsr()
        return _from_scipy(compressed, _sparse_is_symmetric(compressed) if symmetric is None else symmetric)
    if isinstance(source, LinearOperator):
        return _from_scipy(source, bool(symmetric))
    raise SettingError(
        "A linear map is a matrix, a SciPy sparse matrix or LinearOperator, or a LinearMap",
        type(source).__name__,
        "Wrap a function in FunctionMap.",
    )


def _sparse_is_symmetric(matrix: Any) -> bool:
    if matrix.shape[0] != matrix.shape[1]:
        return False
    asymmetry, size = abs(matrix - matrix.T), abs(matrix)
    slack = float(torch.finfo(_torch_dtype(matrix)).eps) ** 0.5
    return bool(asymmetry.max() <= slack * size.max())


def _torch_dtype(source: Any) -> torch.dtype:
    """float32 for float32, float64 for other real types."""
    import numpy as np

    dtype = np.dtype(source.dtype if source.dtype is not None else np.float64)
    if dtype.kind not in "fiub":
        raise SettingError(
            "A linear map is real", f"dtype {dtype}", "Split it into real and imaginary parts."
        )
    return torch.float32 if dtype == np.float32 else torch.float64


def _from_scipy(source: Any, symmetric: bool) -> LinearMap:
    """Products of a SciPy sparse matrix or operator, columns at once."""
    dtype = _torch_dtype(source)

    def forward(X: Tensor) -> Tensor:
        return torch.as_tensor(source @ X.detach().numpy(), dtype=dtype)

    def backward(X: Tensor) -> Tensor:
        return torch.as_tensor(source.T @ X.detach().numpy(), dtype=dtype)

    return FunctionMap(forward, source.shape, dtype, block=True, symmetric=symmetric, transpose=backward)
