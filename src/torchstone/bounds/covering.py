r"""How many members stand for a whole class, up to a radius? Covers and packings of a finite sample of functions.

Functions are rows of values on n examples, at distance :math:`\sqrt{\frac1n \sum_i (f(x_i) - g(x_i))^2}` ("l2") or
:math:`\max_i |f(x_i) - g(x_i)|` ("linf"). A cover of radius r has a centre within r of every row (centres are rows: an internal
cover); a packing has rows more than r apart. For the least cover N and the largest packing P

.. math:: P(2r) \le N(r) \le P(r),

because two rows of a 2r-packing share no centre, and a packing that cannot grow is a cover.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from torchstone.bounds.rademacher import class_values
from torchstone.bounds.risk_bound import check_at_least
from torchstone.errors import NumericalError, SettingError

Metric = Literal["l2", "linf"]
MOST_ROWS = 8000  # a matrix of distances of 512 MB


@dataclass(frozen=True)
class Cover:
    """Rows that stand for all.

    Args:
        centres: Indices of the centres; also a packing, every two are more than the radius asked for apart.
        nearest: For each row the position in `centres` of the nearest, (H,).
        radius: Largest distance of a row from its nearest centre, at most the radius asked for.
    """

    centres: tuple[int, ...]
    nearest: Tensor
    radius: float


@dataclass(frozen=True)
class CoveringNumber:
    """A bracket for the least internal cover's size, from a packing and a cover that were found.

    Args:
        low: Size of a packing of twice the radius.
        high: Size of a cover.
        radius: The radius.
    """

    low: int
    high: int
    radius: float


def function_distances(values: Tensor, metric: Metric = "l2") -> Tensor:
    """All distances (H, H) between functions given by their values on a sample.

    Cost: H^2 n operations and H^2 numbers.

    Args:
        values: One function a row, (H, n).
        metric: "l2" or "linf".

    Returns:
        The distances, float64, exactly symmetric with a zero diagonal.

    Raises:
        SettingError: Another metric, or more than 8000 rows.
        NumericalError: Values that are not finite.

    Example:
        >>> import torch
        >>> round(function_distances(torch.tensor([[0.0, 0.0], [3.0, 3.0]]))[0, 1].item(), 12)
        3.0
    """
    rows = class_values(values)
    if metric not in ("l2", "linf"):
        raise SettingError('metric must be "l2" or "linf"', repr(metric), "Pick one of them.")
    if len(rows) > MOST_ROWS:
        raise SettingError(
            f"Covers are found for up to {MOST_ROWS} functions", f"{len(rows)}", "Sample them."
        )
    if metric == "linf":
        return torch.cdist(rows, rows, p=float("inf"))
    return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist") / rows.shape[1] ** 0.5


def greedy_cover(values: Tensor, radius: float, metric: Metric = "l2") -> Cover:
    """An internal cover: again and again the uncovered row that covers most uncovered rows.

    Its size lies between the least cover's and the largest packing's of the same radius.

    Cost: H^2 numbers, and H additions a centre and a row.

    Args:
        values: One function a row, (H, n).
        radius: Not negative, in the unit of the values.
        metric: "l2" or "linf".

    Returns:
        The cover.

    Raises:
        SettingError: A negative radius or another metric.
        NumericalError: Values that are not finite.

    Example:
        >>> import torch
        >>> greedy_cover(torch.arange(7.0)[:, None], radius=1.0).centres
        (1, 4, 6)

    Source: Kolmogorov & Tikhomirov 1959, section 1 (covers and packings); the greedy choice is that of Chvatal 1979.
    """
    return cover_of_distances(function_distances(values, metric), check_at_least("radius", radius))


def cover_of_distances(distances: Tensor, radius: float) -> Cover:
    """`greedy_cover` from a matrix of distances (H, H)."""
    near = distances <= radius
    count = near.sum(dim=1)
    uncovered = torch.ones(len(distances), dtype=torch.bool, device=distances.device)
    centres = []
    while bool(uncovered.any()):
        chosen = int(torch.where(uncovered, count, -1).argmax())
        centres.append(chosen)
        newly = near[chosen] & uncovered
        uncovered &= ~newly
        count = count - near[newly].sum(dim=0)  # rows, for near is symmetric
    least = distances[:, centres].min(dim=1)
    return Cover(tuple(centres), least.indices, float(least.values.max()))


def greedy_packing(values: Tensor, radius: float, metric: Metric = "l2") -> tuple[int, ...]:
    """A packing that cannot grow: again and again the row with the fewest others within the radius, which drop out.

    Args:
        values: One function a row, (H, n).
        radius: Not negative; chosen rows are more than this apart.
        metric: "l2" or "linf".

    Returns:
        Indices of the rows, in the order of their choice.

    Raises:
        SettingError: A negative radius or another metric.
        NumericalError: Values that are not finite.

    Example:
        >>> import torch
        >>> greedy_packing(torch.arange(7.0)[:, None], radius=1.0)
        (0, 2, 4, 6)

    Source: Kolmogorov & Tikhomirov 1959, section 1.
    """
    near = function_distances(values, metric) <= check_at_least("radius", radius)
    left = torch.ones(len(near), dtype=torch.bool, device=near.device)
    degree = near.sum(dim=1)
    chosen = []
    while bool(left.any()):
        best = int(torch.where(left, degree, len(near) + 1).argmin())
        chosen.append(best)
        dropped = near[best] & left
        left &= ~dropped
        degree = degree - near[dropped].sum(dim=0)
    return tuple(chosen)


def covering_number(values: Tensor, radius: float, metric: Metric = "l2") -> CoveringNumber:
    """A bracket for the covering number: a packing of twice the radius below, a greedy cover above.

    Args:
        values: One function a row, (H, n).
        radius: Not negative.
        metric: "l2" or "linf".

    Returns:
        The bracket. Both ends hold for the rows given; for the class that they are a sample of, only the lower one does.

    Raises:
        SettingError: A negative radius or another metric.
        NumericalError: Values that are not finite.

    Example:
        >>> import torch
        >>> covering_number(torch.arange(9.0)[:, None], radius=1.0)
        CoveringNumber(low=3, high=3, radius=1.0)

    Source: Kolmogorov & Tikhomirov 1959, theorem IV.
    """
    low = len(greedy_packing(values, 2 * radius, metric))
    return CoveringNumber(low, len(greedy_cover(values, radius, metric).centres), float(radius))


def least_cover(values: Tensor, radius: float, metric: Metric = "l2") -> int:
    """Size of the least internal cover, exactly, by integer programming; for some hundred rows.

    Args:
        values: One function a row, (H, n).
        radius: Not negative.
        metric: "l2" or "linf".

    Returns:
        The size.

    Raises:
        SettingError: A negative radius or another metric.
        NumericalError: The solver gave up.
    """
    near = function_distances(values, metric) <= check_at_least("radius", radius)
    return _integer_programme(near, least=True)


def largest_packing(values: Tensor, radius: float, metric: Metric = "l2") -> int:
    """Size of the largest packing, exactly, by integer programming; for some hundred rows.

    Args:
        values: One function a row, (H, n).
        radius: Not negative; rows of a packing are more than this apart.
        metric: "l2" or "linf".

    Returns:
        The size.

    Raises:
        SettingError: A negative radius or another metric.
        NumericalError: The solver gave up.
    """
    near = function_distances(values, metric) <= check_at_least("radius", radius)
    first, second = torch.triu(near, diagonal=1).nonzero(as_tuple=True)
    edges = torch.zeros(len(first), len(near), dtype=torch.float64)
    places = torch.arange(len(first))
    edges[places, first] = 1
    edges[places, second] = 1
    return _integer_programme(edges, least=False)


def _integer_programme(rows: Tensor, least: bool) -> int:
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    size = rows.shape[1]
    if len(rows) == 0:
        return size
    ends = (1, float("inf")) if least else (0, 1)
    solved: Any = milp(
        [1.0 if least else -1.0] * size,
        integrality=[1] * size,
        bounds=Bounds(0, 1),
        constraints=LinearConstraint(csr_array(rows.double().cpu().numpy()), *ends),
        options={"time_limit": 60},
    )
    if not solved.success:
        raise NumericalError(
            "An exact covering number needs a solved integer programme",
            str(solved.message),
            "Take fewer rows.",
        )
    return round(abs(solved.fun))
