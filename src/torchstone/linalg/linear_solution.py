"""What solving linear systems without a factorisation returns, and the loop around every such method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.errors import NumericalError, SettingError
from torchstone.linalg.linear_map import LinearMap
from torchstone.linalg.orthonormalise import column_norms

_GAIN = 0.5  # a sweep that does not halve the residual has met the rounding errors of the products


class Outcome(Enum):
    """How the search for a solution ended; each value is a whole sentence."""

    CONVERGED = "The residual reached the tolerance."
    LEAST_SQUARES = "The system has no solution; the residual is as small as it can be."
    BUDGET = "The budget of products was spent before the residual reached the tolerance."
    STAGNATED = "The residual stopped shrinking at the rounding errors of the products."
    INDEFINITE = "The map is not positive definite: a direction p with p'Ap <= 0 was met."


@dataclass(frozen=True)
class LinearSolution:
    """Solutions of A x = b for one or many right-hand sides.

    Attributes:
        solution: x, of the shape of b: (n,) or (n, k), in the map's dtype.
        residuals: ||b - A x|| / ||b|| of every column (k,) in float64, from products with the solution returned; 0
            for b = 0.
        history: Relative residual norms of the recurrence, before and after every step (steps + 1, k); a column that
            is finished keeps its last.
        outcomes: How each column ended.
        products: Matrix-vector products spent, all columns together.
    """

    solution: Tensor
    residuals: Float[Tensor, " k"]
    history: Float[Tensor, "steps k"]
    outcomes: tuple[Outcome, ...]
    products: int

    @property
    def converged(self) -> bool:
        """Whether every column reached the tolerance."""
        return all(outcome is Outcome.CONVERGED for outcome in self.outcomes)


class Sweep(NamedTuple):
    """One run of a method from zero on A d = r: corrections, history, early outcomes by column, products."""

    corrections: Float[Tensor, "n k"]
    history: Float[Tensor, "steps k"]
    outcomes: list[Outcome | None]
    products: int


# Right-hand sides, norms to reach, budget of products -> sweep.
Method = Callable[[Tensor, Tensor, int], Sweep]


def solve(
    A: LinearMap, b: Tensor, x0: Tensor | None, tolerance: float, max_products: int, method: Method
) -> LinearSolution:
    """Sweep, look at the true residual, and sweep again on what is left where rounding has separated the two."""
    B, X = columns_of(A, b, "b"), columns_of(A, b if x0 is None else x0, "x0").clone()
    if X.shape != B.shape:
        raise SettingError("x0 has the shape of b", f"{tuple(X.shape)} and {tuple(B.shape)}", "Reshape it.")
    if x0 is None:
        X.zero_()
    norms, products = column_norms(B), 0
    safe = torch.where(norms > 0, norms, torch.ones_like(norms))
    R = B.clone()
    if x0 is not None:
        R, products = B - A.matmat(X).detach(), X.shape[1]
        worse = ~(column_norms(R) < norms)  # than zero: such a guess only costs digits
        X[:, worse], R[:, worse] = 0, B[:, worse]
    outcomes: list[Outcome | None] = [Outcome.CONVERGED if norm == 0 else None for norm in norms.tolist()]
    residuals = column_norms(R) / safe
    history = [residuals[None].clone()]
    for column in (residuals <= tolerance).nonzero()[:, 0].tolist():
        outcomes[column] = Outcome.CONVERGED
    while any(outcome is None for outcome in outcomes):
        active = torch.tensor([i for i, outcome in enumerate(outcomes) if outcome is None], device=B.device)
        if products + 2 * len(active) > max_products:
            outcomes = [outcome or Outcome.BUDGET for outcome in outcomes]
            break
        sweep = method(R[:, active], tolerance * norms[active], max_products - products - len(active))
        X[:, active] += sweep.corrections
        R[:, active] = B[:, active] - A.matmat(X[:, active].contiguous()).detach()
        products += sweep.products + len(active)
        before, after = residuals[active], column_norms(R[:, active]) / safe[active]
        residuals[active] = after
        steps = history[-1][-1:].repeat(sweep.history.shape[0], 1)
        steps[:, active] = sweep.history / safe[active]
        history.append(steps)
        for j, column in enumerate(active.tolist()):
            outcomes[column] = _verdict(sweep.outcomes[j], float(before[j]), float(after[j]), tolerance)
    return LinearSolution(
        X[:, 0] if b.ndim == 1 else X,
        residuals,
        torch.cat(history),
        tuple(outcome or Outcome.BUDGET for outcome in outcomes),
        products,
    )


def _verdict(early: Outcome | None, before: float, after: float, tolerance: float) -> Outcome | None:
    """The end of a column after a sweep; None where another one is worth it."""
    if after <= tolerance:
        return Outcome.CONVERGED
    if early is not None:
        return early
    return None if after <= _GAIN * before else Outcome.STAGNATED


def columns_of(A: LinearMap, vectors: Tensor, name: str) -> Float[Tensor, "n k"]:
    """A right-hand side or a guess as columns, checked and detached.

    Raises:
        SettingError: A wrong shape, dtype or device.
        NumericalError: NaN or Inf.
    """
    n = A.shape[0]
    fits = vectors.ndim in (1, 2) and vectors.shape[0] == n and vectors.numel() > 0
    if not fits or vectors.dtype != A.dtype or vectors.device != A.device:
        raise SettingError(
            f"{name} must have shape ({n},) or ({n}, k), {A.dtype}, on {A.device}",
            f"shape {tuple(vectors.shape)}, {vectors.dtype}, on {vectors.device}",
            "Convert it.",
        )
    if not bool(vectors.isfinite().all()):
        raise NumericalError(f"{name} must be finite", "NaN or Inf in it", "Check what computed it.")
    return vectors.detach().reshape(n, -1)


def require_solver_settings(tolerance: float, max_products: int | None) -> None:
    """Refuse a tolerance outside (0, 1) or a budget below one.

    Raises:
        SettingError: Naming which.
    """
    if not 0 < tolerance < 1:
        raise SettingError("tolerance must lie between 0 and 1", f"{tolerance}", "1e-5 is usual.")
    if max_products is not None and max_products < 1:
        raise SettingError("max_products must be at least 1", f"{max_products}", "Raise it.")


def inner(left: Float[Tensor, "n k"], right: Float[Tensor, "n k"]) -> Float[Tensor, " k"]:
    """Inner products of columns, in float64."""
    return (left * right).sum(dim=0, dtype=torch.float64)
