r"""Which sets of points can a class label in every way, and how large is the largest?

A set of points is shattered when all :math:`2^n` labellings of it occur; the VC dimension is the size of the largest shattered set.
Subsets of shattered sets are shattered, so the search goes up by size and drops whatever has a subset that failed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from torchstone.bounds.dichotomies import all_labellings, check_signs, linear_separator
from torchstone.errors import SettingError


@dataclass(frozen=True)
class VCDimension:
    """The VC dimension of a finite class on a pool of points.

    Args:
        dimension: Size of the largest shattered subset of the pool; a lower bound for a class on more points.
        shattered: The indices of one such subset.
        labellings: Distinct labellings of the whole pool.
    """

    dimension: int
    shattered: tuple[int, ...]
    labellings: int


def is_shattered(labellings: Tensor) -> bool:
    r"""Whether the rows hold every sign vector.

    Args:
        labellings: What the class gives to n points, one member a row, (H, n), values -1 and 1.

    Returns:
        Whether there are :math:`2^n` distinct rows.

    Raises:
        SettingError: Not a matrix of signs.

    Example:
        >>> import torch
        >>> is_shattered(torch.tensor([[1, 1], [1, -1], [-1, 1]])), is_shattered(torch.tensor([[1], [-1]]))
        (False, True)

    Source: Vapnik & Chervonenkis 1971.
    """
    codes = _codes(labellings, tuple(range(_signs(labellings).shape[1])))
    return len(codes) == 2 ** labellings.shape[1]


def vc_dimension(labellings: Tensor) -> VCDimension:
    r"""VC dimension of a finite class on a pool of points, by exhaustive search with pruning.

    Cost: one pass over the distinct rows for each candidate set; at most :math:`\sum_{k \le d+1} \binom nk` of them, far fewer
    where small sets fail. A class of H members has dimension at most :math:`\log_2 H`.

    Args:
        labellings: What the class gives to the pool, (H, n), values -1 and 1.

    Returns:
        The dimension on this pool, a shattered subset of that size, and the number of labellings.

    Raises:
        SettingError: Not a matrix of signs.

    Example:
        >>> import torch
        >>> from torchstone.bounds.dichotomies import linear_dichotomies
        >>> vc_dimension(linear_dichotomies(torch.arange(6.0)[:, None])).dimension  # half-lines
        2

    Source: Vapnik & Chervonenkis 1971; the pruning by subsets is that of Agrawal & Srikant 1994.
    """
    rows = torch.unique(_signs(labellings), dim=0)
    n = rows.shape[1]
    found: list[tuple[int, ...]] = [()]
    largest: tuple[int, ...] = ()
    for size in range(1, n + 1):
        known = set(found)
        if 2**size > len(rows):
            break
        candidates = (
            (*smaller, last) for smaller in found for last in range(smaller[-1] + 1 if smaller else 0, n)
        )
        found = [
            candidate
            for candidate in candidates
            if all(subset in known for subset in itertools.combinations(candidate, size - 1))
            and len(_codes(rows, candidate)) == 2**size
        ]
        if not found:
            break
        largest = found[0]
    return VCDimension(len(largest), largest, len(rows))


def shatters(realises: Callable[[Tensor], bool], n: int, symmetric: bool = True) -> bool:
    r"""Whether a class given by an oracle realises every labelling of n points.

    Args:
        realises: Whether the class has a member with these labels, (n,), values -1 and 1.
        n: Number of points, at most 20.
        symmetric: Whether -h belongs to the class with h, which halves the work.

    Returns:
        Whether all :math:`2^n` labellings, or the half of them that end on -1, are realised; stops at the first that is not.

    Raises:
        SettingError: More than 20 points.

    Example:
        >>> at_most_one_change = lambda labels: int((labels[1:] != labels[:-1]).sum()) <= 1
        >>> shatters(at_most_one_change, 2), shatters(at_most_one_change, 3)
        (True, False)
    """
    rows = all_labellings(n)
    return all(realises(row) for row in (rows[: len(rows) // 2] if symmetric else rows))


def shatters_linear(x: Tensor, bias: bool = True) -> bool:
    """Whether hyperplanes realise every labelling of the points; linear programmes, one a pair of labellings.

    Args:
        x: Points (n, d), n at most 20.
        bias: Whether hyperplanes may miss the origin.

    Returns:
        Whether the points are shattered: true exactly where they, with the 1 of the bias, are linearly independent.

    Raises:
        SettingError: More than 20 points.
        NumericalError: Points that are not finite.

    Source: Cover 1965; Vapnik & Chervonenkis 1971 (VC dimension d, or d + 1 with a bias).
    """
    return shatters(lambda labels: linear_separator(x, labels, bias) is not None, len(x))


def _signs(labellings: Tensor) -> Tensor:
    if labellings.ndim != 2 or 0 in labellings.shape:
        raise SettingError(
            "Labellings must have shape (members, points), at least one of each",
            f"shape {tuple(labellings.shape)}",
            "Stack the members' signs as rows.",
        )
    check_signs(labellings.flatten(), labellings.numel())
    return labellings


def _codes(rows: Tensor, subset: tuple[int, ...]) -> Tensor:
    """The distinct labellings of a subset of points."""
    return torch.unique(rows[:, list(subset)] > 0, dim=0)
