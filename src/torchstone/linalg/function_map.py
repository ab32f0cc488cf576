"""The linear map that a function computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from torchstone.linalg.linear_map import LinearMap


class FunctionMap(LinearMap):
    """The linear map that a function computes.

    Cost and error of a product: those of the function, called once a column, or once for all with `block`.

    Args:
        function: Vector (n,) to vector (m,); with `block`, columns (n, k) to columns (m, k).
        shape: (m, n).
        dtype: float32 or float64, of what the function takes and gives.
        device: Of what the function takes and gives.
        block: Whether `function` (and `transpose`) take columns.
        symmetric: Whether the map is symmetric. Lanczos routines notice a false claim and refuse it.
        transpose: The function of A^T, of the same kind as `function`.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        shape: tuple[int, int],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        *,
        block: bool = False,
        symmetric: bool = False,
        transpose: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(shape, dtype, device, symmetric=symmetric)
        self.function, self.block, self.transpose_function = function, block, transpose

    def _matvec(self, x: Tensor) -> Any:  # whatever the function returns: matvec() checks it
        return self.function(x[:, None])[:, 0] if self.block else self.function(x)

    def _matmat(self, X: Tensor) -> Any:
        return self.function(X) if self.block else super()._matmat(X)

    def _transpose(self) -> LinearMap:
        if self.transpose_function is None:
            return super()._transpose()
        shape = (self.shape[1], self.shape[0])
        return FunctionMap(
            self.transpose_function,
            shape,
            self.dtype,
            self.device,
            block=self.block,
            transpose=self.function,
        )
