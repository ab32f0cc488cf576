"""MINRES for symmetric systems that need not be definite, many right-hand sides at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

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


def solve_minres(
    A: LinearMap | Any,
    b: Tensor,
    *,
    tolerance: float = 1e-5,
    max_products: int | None = None,
    x0: Tensor | None = None,
) -> LinearSolution:
    """Solve A x = b for a symmetric A, definite or not.

    The x of step j minimises ||b - A x|| over x0 + span{r, A r, ..., A^(j-1) r}, by Lanczos and a QR decomposition of
    its tridiagonal matrix that is updated step by step. For a singular A:

    - b in the range of A: converges; from x0 = 0 to the solution of least norm.
    - otherwise no residual below the part of b outside the range exists. The column ends as `LEAST_SQUARES` when
      ||A r|| <= tolerance |A| ||r||. Its residual is minimal; its x is one of many minimisers, and not the one of least
      norm.

    Cost: one product a step and column, about twice the steps of conjugate gradients where A is indefinite, and one for
    the true residual; memory 7 vectors a column. Bias: the residual, which is returned.

    Args:
        A: A symmetric map, or what `as_linear_map` takes.
        b: Right-hand sides, (n,) or (n, k).
        tolerance: Residual norm to reach, relative to ||b||.
        max_products: Budget, all columns together; None for 10 n a column, at most 10,000.
        x0: Start, of the shape of b; None for 0, which also replaces a column worse than it.

    Returns:
        x, the true residuals, their history (never growing) and how each column ended.

    Raises:
        SettingError: Not symmetric, a wrong shape or a setting out of range.
        NumericalError: NaN or Inf.

    >>> found = solve_minres(torch.diag(torch.tensor([-1.0, 2.0, 4.0])), torch.ones(3))
    >>> found.solution.numpy().round(4)
    array([-1.  ,  0.5 ,  0.25], dtype=float32)

    Source: Paige & Saunders 1975, SIAM J. Numer. Anal. 12(4); singular systems: Choi, Paige & Saunders 2011, SIAM J.
    Sci. Comput. 33(4), section 2.
    """
    A = as_linear_map(A)
    require_symmetric(A, "solve_minres")
    require_solver_settings(tolerance, max_products)
    count = b.shape[1] if b.ndim == 2 else 1
    budget = count * min(10 * A.shape[0] + 10, 10_000) if max_products is None else max_products
    return solve(A, b, x0, tolerance, budget, lambda R, goals, left: _sweep(A, R, goals, left, tolerance))


class _Run:
    """The recurrences of the columns still going: Lanczos vectors, the last two rotations, search directions."""

    def __init__(self, R: Tensor) -> None:
        self.size = column_norms(R)
        self.V, self.V_old = R / self.size.to(R.dtype), torch.zeros_like(R)
        self.W, self.W_old = torch.zeros_like(R), torch.zeros_like(R)
        one, zero = torch.ones_like(self.size), torch.zeros_like(self.size)
        self.eta, self.beta, self.norm = self.size.clone(), zero, zero
        self.c, self.c_old, self.s, self.s_old = one, one, zero, zero

    def keep(self, going: Tensor) -> None:
        """Forget the other columns."""
        for name, value in vars(self).items():
            setattr(self, name, value[..., going])


def _sweep(A: LinearMap, R: Tensor, goals: Tensor, budget: int, tolerance: float) -> Sweep:
    X, count = torch.zeros_like(R), R.shape[1]
    active, run = torch.arange(count, device=R.device), _Run(R)
    outcomes: list[Outcome | None] = [None] * count
    sizes, products, history = run.size.clone(), 0, []
    while len(active):
        if products + len(active) > budget:
            for column in active.tolist():
                outcomes[column] = Outcome.BUDGET
            break
        products += len(active)
        correction, stuck = _step(A, run, tolerance)
        X[:, active] += correction
        for column in active[stuck].tolist():
            outcomes[column] = Outcome.LEAST_SQUARES
        sizes = sizes.clone()
        sizes[active] = torch.where(stuck, sizes[active], run.eta.abs())
        history.append(sizes)
        # beta = 0 ends the Krylov space: the solution is exact, or as good as it gets.
        going = ~stuck & (sizes[active] > goals[active]) & (run.beta > 0)
        active = active[going]
        run.keep(going)
    return Sweep(X, torch.stack(history), outcomes, products)


def _step(A: LinearMap, run: _Run, tolerance: float) -> tuple[Tensor, Tensor]:
    """One Lanczos step and its rotation: corrections of x, and which columns cannot get any better."""
    dtype = A.dtype
    fresh = A.matmat(run.V).detach() - run.beta.to(dtype) * run.V_old
    alpha = inner(run.V, fresh)
    fresh = fresh - alpha.to(dtype) * run.V
    beta = column_norms(fresh)
    run.norm = torch.maximum(run.norm, torch.sqrt(run.beta**2 + alpha**2 + beta**2))
    beta = torch.where(beta <= 10 * torch.finfo(dtype).eps * run.norm, 0.0, beta)
    delta = run.c * alpha - run.c_old * run.s * run.beta
    # ||A r|| of the residual before this step, relative to |A| ||r||.
    stuck = torch.hypot(delta, run.c * beta) <= tolerance * run.norm
    length = torch.hypot(delta, beta)
    length = torch.where(stuck | (length == 0), 1.0, length)
    above = run.s * alpha + run.c_old * run.c * run.beta
    W = (run.V - (run.s_old * run.beta).to(dtype) * run.W_old - above.to(dtype) * run.W) / length.to(dtype)
    cosine, sine = delta / length, beta / length
    correction = torch.where(stuck, 0.0, cosine * run.eta).to(dtype) * W
    run.eta = torch.where(stuck, run.eta, -sine * run.eta)
    run.W_old, run.W = run.W, W
    run.c_old, run.c, run.s_old, run.s = run.c, cosine, run.s, sine
    run.V_old, run.V = run.V, fresh / torch.where(beta > 0, beta, 1.0).to(dtype)
    run.beta = beta
    return correction, stuck
