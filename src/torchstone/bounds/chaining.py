r"""Chaining over a finite class, link by link: Massart's lemma at every scale instead of at one.

Take nested approximations :math:`T_0 = \{c\}, T_1, \dots, T_J = H`, finer and finer, and send each member of :math:`T_j` to the nearest
of :math:`T_{j-1}`. A member is the sum of the links of its chain, so the supremum is at most the sum of the suprema over links,
and there are only :math:`|T_j|` links of level j:

.. math:: \hat{\mathfrak R}(H) \le \sum_{j=1}^J \max_{t \in T_j} \|t - \text{parent}(t)\|_2 \frac{\sqrt{2 \ln |T_j|}}{n}.

Stopping at a coarser level costs the distance to it instead. Which levels to use is a shortest path, found exactly; the
chain of a single level is Massart's lemma, so the result is never above it. Same idea as Dudley's integral, without its
constants.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from torchstone.bounds.covering import cover_of_distances, function_distances
from torchstone.bounds.dudley import centred_radius
from torchstone.bounds.rademacher import class_values
from torchstone.bounds.risk_bound import check_count


@dataclass(frozen=True)
class ChainingBound:
    """An upper bound on the empirical Rademacher complexity of a finite class.

    Args:
        value: The bound, in the unit of the functions.
        levels: Sizes of the approximations used, from coarse to fine, without the single centre they start from.
        remainder: The part of `value` for stopping before the class itself; 0 where the chain ends there.
    """

    value: float
    levels: tuple[int, ...]
    remainder: float


def chaining_bound(values: Tensor, scales: int = 24) -> ChainingBound:
    r"""The best chain through greedy covers at geometric scales.

    Cost: distances between all members, (H, H), and a greedy cover a scale.

    Args:
        values: :math:`h(x_i)`, one member a row, (H, n).
        scales: Number of covers, a factor 2 apart in radius for every two of them.

    Returns:
        The bound; never above `massart_bound`.

    Raises:
        SettingError: No member or no example, or too many members.
        NumericalError: Values that are not finite.

    Example:
        >>> import torch
        >>> from torchstone.bounds import massart_bound
        >>> segment = torch.linspace(0, 1, 1000)[:, None] * torch.ones(100)  # many members, all on one line
        >>> round(massart_bound(segment), 3), round(chaining_bound(segment).value, 3)
        (0.186, 0.118)

    Source: Dudley 1967; Talagrand 2014, section 2.2 (chains of increasing sets).
    """
    rows = torch.unique(class_values(values), dim=0)
    n = rows.shape[1]
    if len(rows) == 1:
        return ChainingBound(0.0, (), 0.0)
    distances = function_distances(rows)
    radius = centred_radius(rows)
    sets = [list(range(len(rows)))]
    for k in range(1, check_count("scales", scales) + 1):
        centres = list(cover_of_distances(distances, radius * 2 ** (-k / 2)).centres)
        if len(centres) > len(rows) / 2:
            break  # hardly coarser than the class itself
        if len(centres) > 1:
            sets.append(centres)
    sets.sort(key=len)
    return _best_chain(sets, distances, radius, n)


def _best_chain(sets: list[list[int]], distances: Tensor, radius: float, n: int) -> ChainingBound:
    """The shortest path from the centre through some of the sets to the class, or to the end before it."""
    # reached[i]: least sum of links from the centre to set i, and the path.
    reached: list[tuple[float, tuple[int, ...]]] = []
    for i, members in enumerate(sets):
        width = math.sqrt(2 * math.log(len(members)) / n)
        options: list[tuple[float, tuple[int, ...]]] = [(radius * width, (len(members),))]
        for j in range(i):
            step = float(distances[members][:, sets[j]].amin(dim=1).max()) * width
            options.append((reached[j][0] + step, (*reached[j][1], len(members))))
        reached.append(min(options))
    ends: list[tuple[float, tuple[int, ...], float]] = [(radius, (), radius)]
    for (length, path), members in zip(reached, sets, strict=True):
        left = float(distances[:, members].amin(dim=1).max())  # Cauchy and Schwarz for what is not told apart
        ends.append((length + left, path, left))
    value, path, remainder = min(ends)
    return ChainingBound(value, path, remainder)
