r"""Which labellings of given points can a hyperplane realise? Linear programming decides each one.

Points :math:`\tilde x_i` (with a coordinate 1 appended where there is a bias, then scaled to length 1) and labels :math:`y_i = \pm 1`
are separable when the linear programme :math:`\max t` over :math:`y_i \langle w, \tilde x_i \rangle \ge t`, :math:`|w_j| \le 1` has
:math:`t > 0`. It is always feasible, so nothing hangs on a solver's notion of infeasibility, and the margin of the separator
found is computed again in float64. Separable labellings with a margin below 1e-8 count as not separable.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from torchstone.bounds.growth import cover_count
from torchstone.bounds.risk_bound import check_count
from torchstone.errors import NumericalError, SettingError

SMALLEST_MARGIN = 1e-8


def linear_separator(x: Tensor, labels: Tensor, bias: bool = True) -> Tensor | None:
    r"""Weights that separate the points, or None where no hyperplane does.

    Cost: one linear programme of d + 1 variables and n constraints.

    Args:
        x: Points (n, d).
        labels: :math:`\pm 1`, (n,).
        bias: Whether the hyperplane may miss the origin.

    Returns:
        w (d,), or (d + 1,) with the bias last, with :math:`y_i \langle w, \tilde x_i \rangle > 0` for all i; None where there is none.

    Raises:
        SettingError: Labels other than -1 and 1, or not one a point.
        NumericalError: Points that are not finite, or a linear programme that fails.

    Example:
        >>> import torch
        >>> corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        >>> linear_separator(corners, torch.tensor([-1, -1, -1, 1])) is None  # and
        False
        >>> linear_separator(corners, torch.tensor([-1, 1, 1, -1])) is None  # exclusive or
        True

    Source: Minsky & Papert 1969 for what cannot be separated; the linear programme is Mangasarian 1965.
    """
    points = homogeneous(x, bias)
    check_signs(labels, len(points))
    unit = _unit_rows(points)
    if unit is None:
        return None  # the origin is on every hyperplane through it
    return positive_solution(labels.detach().double().cpu()[:, None] * unit)


def linear_dichotomies(x: Tensor, bias: bool = True, most: int = 20_000) -> Tensor:
    r"""All labellings of the points that some hyperplane realises, one a row.

    Built point by point: a labelling of the first k points extends to the next with the sign its separator gives, and with
    the other sign if a linear programme says so. In general position there are exactly Cover's :math:`C(n, d)`.

    Cost: at most :math:`\sum_{k \le n} C(k, d)` linear programmes, about a millisecond each.

    Args:
        x: Points (n, d).
        bias: Whether hyperplanes may miss the origin.
        most: Refuse where Cover's count is larger.

    Returns:
        Signs (M, n), float64, without duplicates.

    Raises:
        SettingError: More labellings than `most`, or no points.
        NumericalError: Points that are not finite.

    Example:
        >>> import torch
        >>> len(linear_dichotomies(torch.arange(5.0)[:, None]))  # thresholds in both directions
        10

    Source: Cover 1965, theorem 1 and its proof by induction.
    """
    points = homogeneous(x, bias)
    n = check_count("The number of points", len(points))
    expected = cover_count(n, points.shape[1])
    if expected > most:
        raise SettingError(
            f"linear_dichotomies lists at most most={most:,} labellings",
            f"{n} points with {expected:,}",
            "Take fewer points, or raise most.",
        )
    unit = _unit_rows(points)
    if unit is None:
        return points.new_empty(0, n)  # no hyperplane through the origin gives the origin a sign
    found = [(unit.new_tensor([sign]), sign * unit[0]) for sign in (1.0, -1.0)]
    for k in range(1, n):
        extended = []
        for signs, w in found:
            side = float(unit[k] @ w)
            for sign in (1.0, -1.0):
                labels = torch.cat([signs, signs.new_tensor([sign])])
                if sign * side > SMALLEST_MARGIN:
                    extended.append((labels, w))
                elif (other := positive_solution(labels[:, None] * unit[: k + 1])) is not None:
                    extended.append((labels, other))
        found = extended
    return torch.stack([signs for signs, _ in found])


def positive_solution(rows: Tensor, cone: Tensor | None = None) -> Tensor | None:
    r"""Some w in the box :math:`|w_j| \le 1` with every row's product above 0 and every product with `cone` at least 0, or None.

    Args:
        rows: (n, d), float64.
        cone: Further rows (m, d).

    Returns:
        w (d,), or None where the largest least product is not above 1e-8.

    Raises:
        NumericalError: The linear programme failed.
    """
    from scipy.optimize import linprog

    n, d = rows.shape
    below = torch.cat([-rows, rows.new_ones(n, 1)], dim=1)
    if cone is not None:
        below = torch.cat([below, torch.cat([-cone, cone.new_zeros(len(cone), 1)], dim=1)])
    solved: Any = linprog(
        [0.0] * d + [-1.0],
        A_ub=below.numpy(),
        b_ub=[0.0] * len(below),
        bounds=[(-1, 1)] * d + [(0, 1)],
        method="highs",
    )
    if solved.x is None:
        raise NumericalError(
            "A separation problem is always solvable", str(solved.message), "Rescale the points."
        )
    w = torch.as_tensor(solved.x[:d], dtype=torch.float64)
    # The solver's answer is checked, not believed: its own tolerance is 1e-7 a constraint.
    return w if float((rows @ w).min()) > max(SMALLEST_MARGIN, 1e-2 * float(solved.x[d])) else None


def homogeneous(x: Tensor, bias: bool) -> Tensor:
    """Points (n, d) in float64 on the CPU, with a coordinate 1 appended where there is a bias."""
    if x.ndim != 2 or x.shape[1] + bias == 0:
        raise SettingError("Points must have shape (n, d)", f"shape {tuple(x.shape)}", "Flatten the inputs.")
    points = x.detach().double().cpu()
    if not bool(torch.isfinite(points).all()):
        raise NumericalError("Points must be finite", "NaN or infinity", "Remove them.")
    return torch.cat([points, points.new_ones(len(points), 1)], dim=1) if bias else points


def check_signs(labels: Tensor, n: int) -> None:
    """Raises unless there are n labels -1 or 1."""
    if labels.shape != (n,) or not bool((labels.abs() == 1).all()):
        raise SettingError(
            f"Labels must be -1 or 1, one for each of {n} points",
            f"shape {tuple(labels.shape)} with values {sorted(set(labels.flatten().tolist()))[:4]}",
            "Map classes to signs.",
        )


def all_labellings(n: int) -> Tensor:
    """All sign vectors (2^n, n) in float64; n up to 20."""
    check_count("n", n)
    if n > 20:
        raise SettingError("All labellings are listed for up to 20 points", f"{n}", "Take fewer points.")
    codes = torch.arange(2**n)
    return 2.0 * ((codes[:, None] >> torch.arange(n)) & 1).double() - 1.0


def log_count(labellings: Tensor) -> float:
    """Natural logarithm of the number of distinct rows: what the risk bounds take."""
    return math.log(len(torch.unique(labellings, dim=0)))


def _unit_rows(points: Tensor) -> Tensor | None:
    """The points at length 1, or None where one is the origin; squares of huge coordinates are never formed."""
    largest = points.abs().amax(dim=1, keepdim=True)
    if bool((largest == 0).any()):
        return None
    scaled = points / largest
    return scaled / scaled.norm(dim=1, keepdim=True)
