"""The inverse of a damped symmetric map, as a map whose products are solved for."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from torchstone.errors import NumericalError, SettingError
from torchstone.linalg.as_linear_map import as_linear_map
from torchstone.linalg.conjugate_gradients import solve_cg
from torchstone.linalg.linear_map import LinearMap, require_square, require_symmetric
from torchstone.linalg.linear_solution import LinearSolution
from torchstone.linalg.minres import solve_minres


class DampedMap(LinearMap):
    """The map A + damping I.

    Cost of a product: one of A, and 2 n operations a column; its rounding is that of A.

    Args:
        A: A square map, or what `as_linear_map` takes.
        damping: A finite number, of any sign.

    Raises:
        SettingError: Not square, or damping not finite.

    >>> import torch
    >>> DampedMap(torch.eye(2), 0.5).to_dense()
    tensor([[1.5000, 0.0000],
            [0.0000, 1.5000]])
    """

    def __init__(self, A: LinearMap | Any, damping: float) -> None:
        A = as_linear_map(A)
        require_square(A, "DampedMap")
        if not math.isfinite(damping):
            raise SettingError("damping is a finite number", f"{damping}", "Check what computed it.")
        super().__init__(A.shape, A.dtype, A.device, symmetric=A.symmetric)
        self.base, self.damping = A, float(damping)

    def _matvec(self, x: Tensor) -> Tensor:
        return self.base.matvec(x) + self.damping * x

    def _matmat(self, X: Tensor) -> Tensor:
        return self.base.matmat(X) + self.damping * X

    def _transpose(self) -> LinearMap:
        return DampedMap(self.base.T, self.damping)


class InverseMap(LinearMap):
    """The map (A + damping I)^-1 of a symmetric A, by conjugate gradients, or MINRES where A is indefinite.

    A product solves to a relative residual of at most `tolerance`, so it errs by at most tolerance |b| / sigma with
    sigma the smallest absolute eigenvalue of A + damping I. A product that does not get there raises: it is never
    silently wrong. `reached` is the worst residual so far, `products` the products with A so far.

    Such products depend a little on the vector in a way that is not linear, of the order of the tolerance.

    Cost: of a product, that of `solve_cg` or `solve_minres`.

    Args:
        A: A symmetric map, or what `as_linear_map` takes.
        damping: Added to the diagonal.
        tolerance: Relative residual that every product must reach.
        max_products: Budget of products with A for one call; None as for the solver.
        preconditioner: Of conjugate gradients: positive definite, near the inverse.
        indefinite: Use MINRES.

    Raises:
        SettingError: Not symmetric, a setting out of range, or a preconditioner for MINRES.
        NumericalError: By a product: the tolerance was not reached, or A + damping I is not positive definite.

    >>> import torch
    >>> InverseMap(torch.diag(torch.tensor([1.0, 3.0])), damping=1.0).matvec(torch.ones(2)).numpy().round(4)
    array([0.5 , 0.25], dtype=float32)
    """

    def __init__(
        self,
        A: LinearMap | Any,
        damping: float = 0.0,
        *,
        tolerance: float = 1e-5,
        max_products: int | None = None,
        preconditioner: LinearMap | Any | None = None,
        indefinite: bool = False,
    ) -> None:
        A = as_linear_map(A)
        require_symmetric(A, "InverseMap")
        if indefinite and preconditioner is not None:
            raise SettingError(
                "A preconditioner goes with conjugate gradients", "indefinite=True", "Drop one of them."
            )
        super().__init__(A.shape, A.dtype, A.device, symmetric=True)
        self.damped = DampedMap(A, damping) if damping else A
        self.tolerance, self.max_products = tolerance, max_products
        self.preconditioner, self.indefinite = preconditioner, indefinite
        self.reached, self.products = 0.0, 0

    def _matvec(self, x: Tensor) -> Tensor:
        return self._checked_solution(self._solve(x))

    def _matmat(self, X: Tensor) -> Tensor:
        return self._checked_solution(self._solve(X))

    def _solve(self, b: Tensor) -> LinearSolution:
        if self.indefinite:
            return solve_minres(self.damped, b, tolerance=self.tolerance, max_products=self.max_products)
        return solve_cg(
            self.damped,
            b,
            tolerance=self.tolerance,
            max_products=self.max_products,
            preconditioner=self.preconditioner,
        )

    def _checked_solution(self, found: LinearSolution) -> Tensor:
        self.products += found.products
        worst = int(found.residuals.argmax())
        self.reached = max(self.reached, float(found.residuals[worst]))
        if not found.converged:
            raise NumericalError(
                f"Products of {self} reach a relative residual of {self.tolerance:g}",
                f"{float(found.residuals[worst]):.2g} ({found.outcomes[worst].value.rstrip('.')})",
                "Raise damping, tolerance or max_products; pass indefinite=True where there are negative eigenvalues.",
            )
        return found.solution
