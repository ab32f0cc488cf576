"""Conjugate gradients for symmetric positive definite systems, many right-hand sides at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchstone.errors import NumericalError, SettingError
from torchstone.linalg.as_linear_map import as_linear_map
from torchstone.linalg.linear_map import LinearMap, require_symmetric
from torchstone.linalg.linear_solution import (
    LinearSolution,
    Outcome,
    Sweep,
    inner,
    require_solver_settings,
    solve,
)
from torchstone.linalg.orthonormalise import column_norms


def solve_cg(
    A: LinearMap | Any,
    b: Tensor,
    *,
    tolerance: float = 1e-5,
    max_products: int | None = None,
    x0: Tensor | None = None,
    preconditioner: LinearMap | Any | None = None,
) -> LinearSolution:
    """Solve A x = b for a symmetric positive definite A.

    The x of step j minimises ||x - A^-1 b||_A over x0 + span{r, A r, ..., A^(j-1) r}; the error in that norm shrinks
    at least like 2 ((sqrt(kappa) - 1) / (sqrt(kappa) + 1))^j. Every column runs its own recurrence; products of the
    columns not yet finished go together. The residual returned is true; where rounding let the recurrence run away from
    it, the method starts again on what is left.

    A direction p with p'Ap <= 0 (to rounding) ends a column as `INDEFINITE`, with the x reached before it. A singular
    positive semi-definite A is solved where b lies in its range.

    Cost: about sqrt(kappa) log(2 / tolerance) / 2 products a column, fewer where eigenvalues cluster, and one for the
    true residual; memory 6 vectors a column. Bias: the residual, which is returned: the relative error of x is at most
    kappa times it.

    Args:
        A: A symmetric map, or what `as_linear_map` takes.
        b: Right-hand sides, (n,) or (n, k).
        tolerance: Residual norm to reach, relative to ||b||.
        max_products: Budget, all columns together; None for 10 n a column, at most 10,000.
        x0: Start, of the shape of b; None for 0, which also replaces a column worse than it.
        preconditioner: A symmetric positive definite M, near A^-1.

    Returns:
        x, the true residuals, their history and how each column ended.

    Raises:
        SettingError: Not symmetric, a wrong shape or a setting out of range.
        NumericalError: NaN or Inf, or a preconditioner that is not positive definite.

    >>> found = solve_cg(torch.diag(torch.tensor([1.0, 2.0, 4.0])), torch.ones(3))
    >>> found.solution.numpy().round(4)
    array([1.  , 0.5 , 0.25], dtype=float32)

    Source: Hestenes & Stiefel 1952; Golub & Van Loan, Matrix Computations (4th ed.), section 11.3.
    """
    A = as_linear_map(A)
    require_symmetric(A, "solve_cg")
    require_solver_settings(tolerance, max_products)
    M = None if preconditioner is None else as_linear_map(preconditioner)
    if M is not None:
        require_symmetric(M, "The preconditioner of solve_cg")
        if (M.shape, M.dtype, M.device) != (A.shape, A.dtype, A.device):
            raise SettingError(
                "A preconditioner has the map's shape, dtype and device", f"{M} for {A}", "Convert it."
            )
    count = b.shape[1] if b.ndim == 2 else 1
    budget = count * min(10 * A.shape[0] + 10, 10_000) if max_products is None else max_products
    return solve(A, b, x0, tolerance, budget, lambda R, goals, left: _sweep(A, M, R, goals, left))


def _sweep(A: LinearMap, M: LinearMap | None, R: Tensor, goals: Tensor, budget: int) -> Sweep:
    """Conjugate gradients from zero until every column's recurrence is at its goal."""
    X, R, count = torch.zeros_like(R), R.clone(), R.shape[1]
    Z = _precondition(M, R)
    P, rho, active = Z.clone(), inner(R, Z), torch.arange(count, device=R.device)
    outcomes: list[Outcome | None] = [None] * count
    sizes, products = column_norms(R), 0
    history = []
    eps = torch.finfo(A.dtype).eps
    while len(active):
        if products + len(active) > budget:
            for column in active.tolist():
                outcomes[column] = Outcome.BUDGET
            break
        AP = A.matmat(P).detach()
        products += len(active)
        curvature = inner(P, AP)
        flat = curvature <= eps * column_norms(P) * column_norms(AP)
        for column in active[flat].tolist():
            outcomes[column] = Outcome.INDEFINITE
        step = torch.where(flat, 0.0, rho / torch.where(flat, 1.0, curvature)).to(A.dtype)
        X[:, active] += step * P
        R = R - step * AP
        sizes = sizes.clone()
        sizes[active] = column_norms(R)
        history.append(sizes)
        going = ~flat & (sizes[active] > goals[active])
        # A direction built from what is left to rounding would point nowhere.
        R, P, rho, active = R[:, going], P[:, going], rho[going], active[going]
        Z = _precondition(M, R)
        fresh = inner(R, Z)
        P, rho = Z + (fresh / rho).to(A.dtype) * P, fresh
    steps = torch.stack(history) if history else torch.empty(0, count, dtype=torch.float64, device=R.device)
    return Sweep(X, steps, outcomes, products)


def _precondition(M: LinearMap | None, R: Tensor) -> Tensor:
    if M is None or R.shape[1] == 0:
        return R
    Z = M.matmat(R.contiguous()).detach()
    if bool((inner(R, Z) <= 0).any()):
        raise NumericalError(
            "A preconditioner of conjugate gradients is positive definite",
            f"{M} with r'Mr <= 0",
            "Drop it, or add a multiple of the identity to it.",
        )
    return Z
