"""Linear maps known by their products: the one contract that every matrix-free routine works on."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.errors import NumericalError, SettingError

_DTYPES = (torch.float32, torch.float64)


class LinearMap(ABC):
    """A real linear map A from R^n to R^m of which only products are known.

    A subclass supplies `_matvec`, and `_matmat` where many columns at once are cheaper than one after another, and
    `_transpose` where A is not symmetric but its transpose is known. The public methods check what goes in and what
    comes out, so a routine built on them never meets a NaN, a wrong shape, dtype or device.

    Products may carry an autograd graph; routines that do not differentiate detach them.

    Cost: what the subclass's product takes, and one sum over what comes out to see that it is finite; nothing is stored. A
    sum, product, scaling, transpose or restriction is lazy: it costs the products of its parts, and adds no error but
    rounding. `to_dense` takes n products.

    Args:
        shape: (m, n), both at least 1.
        dtype: float32 or float64: the type of the vectors taken and given. Maps of lower precision cast inside.
        device: Where the vectors live.
        symmetric: Declares A = A^T. Routines for symmetric maps refuse one that is not declared.

    Raises:
        SettingError: Another dtype, an empty shape, or symmetric without being square.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        dtype: torch.dtype,
        device: torch.device | str,
        *,
        symmetric: bool = False,
    ) -> None:
        if len(shape) != 2 or min(shape) < 1:
            raise SettingError(
                "A linear map has a shape (m, n), both at least 1", f"{tuple(shape)}", "Give (rows, columns)."
            )
        if dtype not in _DTYPES:
            raise SettingError(
                "A linear map works in float32 or float64", f"{dtype}", "Cast inside its product."
            )
        if symmetric and shape[0] != shape[1]:
            raise SettingError("A symmetric map is square", f"shape {tuple(shape)}", "Drop symmetric=True.")
        self.shape = (int(shape[0]), int(shape[1]))
        self.dtype = dtype
        self.device = torch.empty(0, device=device).device  # "cuda" becomes "cuda:0", as tensors say it
        self.symmetric = symmetric

    @abstractmethod
    def _matvec(self, x: Float[Tensor, " n"]) -> Float[Tensor, " m"]:
        """The product A x; x is already checked, the result is checked afterwards."""

    def _matmat(self, X: Float[Tensor, "n k"]) -> Float[Tensor, "m k"]:
        """The product A X for k >= 1 columns: here one product after another."""
        return torch.stack([self.matvec(X[:, j]) for j in range(X.shape[1])], dim=1)

    def _transpose(self) -> LinearMap:
        """A map for A^T; only asked where A is not symmetric."""
        raise SettingError(
            f"{self} must know its transpose for this",
            "a map without one",
            "Pass transpose= to FunctionMap, or symmetric=True where it is symmetric.",
        )

    def matvec(self, x: Tensor) -> Float[Tensor, " m"]:
        """The product A x.

        Args:
            x: Vector (n,).

        Returns:
            Vector (m,).

        Raises:
            SettingError: A wrong shape, dtype or device, of x or of the product.
            NumericalError: A product with NaN or Inf.
        """
        self._check_input(x, (self.shape[1],))
        return self._checked(self._matvec(x), (self.shape[0],))

    def matmat(self, X: Tensor) -> Float[Tensor, "m k"]:
        """The products A X of several columns at once.

        Args:
            X: Columns (n, k); k may be 0.

        Returns:
            Columns (m, k).

        Raises:
            SettingError: A wrong shape, dtype or device, of X or of the product.
            NumericalError: A product with NaN or Inf.
        """
        self._check_input(X, (self.shape[1], X.shape[1] if X.ndim == 2 else -1))
        if X.shape[1] == 0:
            return X.new_zeros(self.shape[0], 0)
        return self._checked(self._matmat(X), (self.shape[0], X.shape[1]))

    def _check_input(self, x: Tensor, shape: tuple[int, ...]) -> None:
        if tuple(x.shape) != shape or x.dtype != self.dtype or x.device != self.device:
            wanted = str(shape).replace("-1", "k")
            raise SettingError(
                f"{self} takes shape {wanted}, {self.dtype}, on {self.device}",
                f"shape {tuple(x.shape)}, {x.dtype}, on {x.device}",
                "Reshape it, or convert it with .to(dtype=..., device=...).",
            )

    def _checked(self, product: Any, shape: tuple[int, ...]) -> Tensor:
        if not isinstance(product, Tensor):
            raise SettingError(
                f"A product of {self} is a tensor", type(product).__name__, "Return one from the function."
            )
        if tuple(product.shape) != shape or product.dtype != self.dtype or product.device != self.device:
            raise SettingError(
                f"A product of {self} has shape {shape}, {self.dtype}, on {self.device}",
                f"shape {tuple(product.shape)}, {product.dtype}, on {product.device}",
                "Correct the function, or the shape, dtype and device declared for it.",
            )
        # One number that is not finite makes the sum so; a sum that overflows by itself is looked at again.
        if not bool(product.detach().sum().isfinite()) and not bool(product.isfinite().all()):
            bad = int((~product.isfinite()).sum())
            raise NumericalError(
                f"Products of {self} must be finite",
                f"{bad} NaN or Inf among {product.numel()} numbers",
                "Look for overflow, a division by zero or a derivative that does not exist in what it computes.",
            )
        return product

    def transpose(self) -> LinearMap:
        """The map of A^T, of shape (n, m); A itself where it is symmetric.

        Raises:
            SettingError: A map that is neither symmetric nor knows its transpose.
        """
        return self if self.symmetric else self._transpose()

    @property
    def T(self) -> LinearMap:
        """The same as `transpose()`."""
        return self.transpose()

    def as_symmetric(self) -> LinearMap:
        """The same map declared symmetric, for products such as J^T H J whose symmetry nothing else shows."""
        require_square(self, "as_symmetric()")
        declared = copy.copy(self)
        declared.symmetric = True
        return declared

    def to_dense(self, block: int = 64) -> Float[Tensor, "m n"]:
        """The matrix of A. Cost: n products, `block` at a time, and m n numbers of memory."""
        starts = range(0, self.shape[1], block)
        eye = torch.eye(self.shape[1], dtype=self.dtype, device=self.device)
        return torch.cat([self.matmat(eye[:, i : i + block]) for i in starts], dim=1)

    def to_scipy(self) -> Any:
        """A `scipy.sparse.linalg.LinearOperator` with the same products, on NumPy arrays in the CPU's memory.

        Its adjoint products fail where the transpose is unknown.
        """
        from scipy.sparse import linalg

        def forward(X: Any) -> Any:
            return _through_numpy(self, X)

        def backward(X: Any) -> Any:
            return _through_numpy(self.T, X)

        operator: Any = linalg.LinearOperator  # its constructor takes products only at run time
        dtype = str(self.dtype).removeprefix("torch.")
        return operator(
            self.shape, matvec=forward, rmatvec=backward, matmat=forward, rmatmat=backward, dtype=dtype
        )

    def __add__(self, other: LinearMap) -> LinearMap:
        return SumMap(self, other) if isinstance(other, LinearMap) else NotImplemented

    def __sub__(self, other: LinearMap) -> LinearMap:
        return SumMap(self, -other) if isinstance(other, LinearMap) else NotImplemented

    def __mul__(self, factor: float | int) -> LinearMap:
        return ScaledMap(float(factor), self) if isinstance(factor, int | float) else NotImplemented

    __rmul__ = __mul__

    def __truediv__(self, divisor: float | int) -> LinearMap:
        return self * (1 / divisor)

    def __neg__(self) -> LinearMap:
        return -1.0 * self

    def __matmul__(self, other: Any) -> Any:
        if isinstance(other, LinearMap):
            return ProductMap(self, other)
        if isinstance(other, Tensor):
            return self.matvec(other) if other.ndim == 1 else self.matmat(other)
        return NotImplemented

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.shape[0]}x{self.shape[1]}, {self.dtype}, {self.device})"


def _through_numpy(map_: LinearMap, X: Any) -> Any:
    """Products with a NumPy array (n,) or (n, k), as a NumPy array of the same number of dimensions."""
    import numpy as np

    columns = torch.from_numpy(np.ascontiguousarray(X)).to(dtype=map_.dtype, device=map_.device)
    product = map_.matvec(columns) if columns.ndim == 1 else map_.matmat(columns)
    return product.detach().cpu().numpy()


class SumMap(LinearMap):
    """The sum A + B of two maps of one shape, dtype and device; symmetric where both are."""

    def __init__(self, left: LinearMap, right: LinearMap) -> None:
        _require_compatible(left, right, left.shape == right.shape, "A sum")
        super().__init__(left.shape, left.dtype, left.device, symmetric=left.symmetric and right.symmetric)
        self.left, self.right = left, right

    def _matvec(self, x: Tensor) -> Tensor:
        return self.left.matvec(x) + self.right.matvec(x)

    def _matmat(self, X: Tensor) -> Tensor:
        return self.left.matmat(X) + self.right.matmat(X)

    def _transpose(self) -> LinearMap:
        return SumMap(self.left.T, self.right.T)


class ScaledMap(LinearMap):
    """The map c A for a finite number c."""

    def __init__(self, factor: float, base: LinearMap) -> None:
        if not math.isfinite(factor):
            raise SettingError("A factor is a finite number", f"{factor}", "Check what computed it.")
        super().__init__(base.shape, base.dtype, base.device, symmetric=base.symmetric)
        self.factor, self.base = factor, base

    def _matvec(self, x: Tensor) -> Tensor:
        return self.factor * self.base.matvec(x)

    def _matmat(self, X: Tensor) -> Tensor:
        return self.factor * self.base.matmat(X)

    def _transpose(self) -> LinearMap:
        return ScaledMap(self.factor, self.base.T)


class ProductMap(LinearMap):
    """The composition A B; not taken for symmetric unless said so by `as_symmetric()`."""

    def __init__(self, left: LinearMap, right: LinearMap) -> None:
        _require_compatible(left, right, left.shape[1] == right.shape[0], "A product")
        super().__init__((left.shape[0], right.shape[1]), left.dtype, left.device)
        self.left, self.right = left, right

    def _matvec(self, x: Tensor) -> Tensor:
        return self.left.matvec(self.right.matvec(x))

    def _matmat(self, X: Tensor) -> Tensor:
        return self.left.matmat(self.right.matmat(X))

    def _transpose(self) -> LinearMap:
        return ProductMap(self.right.T, self.left.T)


def _require_compatible(left: LinearMap, right: LinearMap, shapes_agree: bool, what: str) -> None:
    if not shapes_agree or left.dtype != right.dtype or left.device != right.device:
        raise SettingError(
            f"{what} of maps needs matching shapes, one dtype and one device",
            f"{left} and {right}",
            "Convert one of them.",
        )


def require_square(A: LinearMap, routine: str) -> None:
    """Refuse a map that is not square.

    Raises:
        SettingError: Naming the routine that needs it.
    """
    if A.shape[0] != A.shape[1]:
        raise SettingError(f"{routine} needs a square map", f"{A}", "For singular values use A.T @ A.")


def require_symmetric(A: LinearMap, routine: str) -> None:
    """Refuse a map that is not square or not declared symmetric.

    Raises:
        SettingError: Naming the routine that needs it.
    """
    require_square(A, routine)
    if not A.symmetric:
        raise SettingError(
            f"{routine} needs a symmetric map",
            f"{A}, which is not declared symmetric",
            "Pass symmetric=True, or call .as_symmetric(), where it is.",
        )
