"""The inverse of a damped curvature matrix: Newton steps and influence functions."""

from __future__ import annotations

import torch
from torch import Tensor

from torchstone.errors import NumericalError, SettingError
from torchstone.linalg import InverseMap, LinearMap, require_symmetric, top_eigenpairs

SHARE = 1e-2
"""Default damping, as a share of the largest eigenvalue."""
_TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-8}  # what rounding allows at the default damping
_PRODUCTS = 60  # to look for an end of the spectrum


class CurvatureInverse(LinearMap):
    """The map (A + damping I)^-1 of a curvature matrix A; made by `inverse`.

    Attributes:
        operator: A.
        damping: What was added to the diagonal.
        solver: Solves each product; its `reached` is the worst residual so far, its `products` those with A so far.
    """

    def __init__(self, operator: LinearMap, damping: float, solver: InverseMap) -> None:
        super().__init__(operator.shape, operator.dtype, operator.device, symmetric=True)
        self.operator, self.damping, self.solver = operator, damping, solver

    def _matvec(self, x: Tensor) -> Tensor:
        return self._matmat(x[:, None])[:, 0]

    def _matmat(self, X: Tensor) -> Tensor:
        try:
            return self.solver.matmat(X)
        except NumericalError as error:
            lowest = _end_of_spectrum(self.operator, "smallest")
            if lowest + self.damping > 0:
                raise
            raise NumericalError(
                f"{self.operator} with damping {self.damping:.3g} must be positive definite to be inverted",
                f"an eigenvalue of {lowest:.3g} without damping",
                f"Pass damping above {-lowest:.3g}, or use GaussNewton, whose eigenvalues are not negative for losses that "
                "are convex in the outputs.",
            ) from error


def inverse(
    operator: LinearMap,
    damping: float | None = None,
    *,
    tolerance: float | None = None,
    max_products: int | None = None,
    preconditioner: LinearMap | None = None,
) -> CurvatureInverse:
    r"""(A + damping I)^-1 of a symmetric curvature matrix, by conjugate gradients.

    Networks have many directions without curvature, where an inverse without damping would be huge; so the damping
    decides what such directions count for. By default it is a hundredth of the largest eigenvalue of A, found in at most
    60 products with A: a condition number of about 100, at which float32 still reaches the default tolerance.

    Cost: at most about sqrt(kappa) log(2 / tolerance) / 2 products with A a column, kappa = 1 + lambda_max / damping; 50
    at the defaults in float32. Memory: 6 vectors a column. Bias: |error| <= tolerance |b| / (lambda_min + damping).

    Args:
        operator: `Hessian`, `GaussNewton`, `Fisher`, `BlockDiagonal` or another symmetric map.
        damping: Added to the diagonal, at least 0; None for the default.
        tolerance: Relative residual that every product must reach; None for 1e-4 in float32, 1e-8 in float64.
        max_products: Budget of products with A for one call; None for that of `solve_cg`.
        preconditioner: Positive definite, near the inverse, such as `KroneckerCurvature(...).inverse(damping)`.

    Returns:
        The inverse as a linear map. A product raises NumericalError where the tolerance was not reached, and says which
        eigenvalue was met where A + damping I is not positive definite.

    Raises:
        SettingError: Not symmetric, or a setting out of range.
        NumericalError: No default damping, because A has no positive eigenvalue.

    Example:
        The influence of a training example on a test loss: how fast the test loss at the optimum falls as the example's
        weight in the mean grows from 1/N. Here with the optimum w = 2 of the mean of (w - y)^2:

    >>> from torchstone import Specimen
    >>> from torchstone.objectives import Regression
    >>> from torchstone.operators import Hessian
    >>> line = torch.nn.Linear(1, 1, bias=False).double()
    >>> _ = line.weight.data.fill_(2.0)
    >>> x, y = torch.ones(4, 1).double(), torch.tensor([[1.0], [2.0], [2.0], [3.0]]).double()
    >>> specimen = Specimen(line, Regression(), (x, y), (x[:1], y[3:]))
    >>> train = Specimen(line, Regression(), (x[:1], y[:1])).gradient()["weight"].flatten()  # of one example
    >>> test = specimen.gradient("test")["weight"].flatten()
    >>> float(test @ inverse(Hessian(specimen), damping=0.0).matvec(train))
    -2.0

    Source: Martens 2010, section 4 (damped Hessian-free steps); Koh & Liang 2017, sections 2 and 3 (influence functions by
    conjugate gradients).
    """
    require_symmetric(operator, "inverse")
    if damping is None:
        damping = SHARE * _end_of_spectrum(operator, "largest")
        if damping <= 0:
            raise NumericalError(
                "The default damping is a share of the largest eigenvalue, which must be positive",
                f"{damping / SHARE:.3g}",
                "Pass damping=, or look at a specimen with curvature.",
            )
    if not damping >= 0:
        raise SettingError("damping must be at least 0", f"{damping}", "Pass None for the default.")
    solver = InverseMap(
        operator,
        damping,
        tolerance=_TOLERANCES[operator.dtype] if tolerance is None else tolerance,
        max_products=max_products,
        preconditioner=preconditioner,
    )
    return CurvatureInverse(operator, damping, solver)


def _end_of_spectrum(A: LinearMap, which: str) -> float:
    """An eigenvalue near the end: at most the largest, at least the smallest."""
    found = top_eigenpairs(
        A,
        1,
        which="largest" if which == "largest" else "smallest",
        tolerance=1e-2,
        max_products=_PRODUCTS,
        generator=torch.Generator().manual_seed(0),
        certify=False,
    )
    return float(found.values[0])
