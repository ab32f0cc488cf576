r"""Merge tree of the sublevel sets of a function on a grid: how many basins, and how deep each is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from torch import Tensor

from torchstone.errors import SettingError


@dataclass(frozen=True)
class Basin:
    """A connected component of {f <= level} from where it is born to where it merges into an older one.

    Args:
        birth: Value at its minimum.
        death: Level of the saddle at which it joins a basin with a lower minimum; infinite for the lowest.
        minimum: Grid indices of its minimum.
        saddle: Grid indices of that saddle; empty for the lowest.
        parent: Position in the list of the basin it joins; -1 for the lowest.
    """

    birth: float
    death: float
    minimum: tuple[int, ...]
    saddle: tuple[int, ...] = ()
    parent: int = -1

    @property
    def persistence(self) -> float:
        """Depth below the saddle: what must be climbed to leave for a lower minimum."""
        return self.death - self.birth


def basins(values: Tensor, *, at_least: float = 0.0) -> list[Basin]:
    r"""0-dimensional persistent homology of the sublevel sets, by union-find over points in order of their value.

    Neighbours are all grid points that differ by at most 1 in every index. When two components meet, the one with the
    higher minimum ends (the elder rule). Points that are NaN or infinite belong to no component.

    Cost: O(n log n) for n points.

    Args:
        values: The function on a grid of any dimension.
        at_least: Basins of this persistence or less are left out, apart from the lowest of each connected part; 0 leaves
            out what a plateau's ties make.

    Returns:
        Basins by falling persistence, the lowest first.

    Raises:
        SettingError: No finite value.

    Source: Edelsbrunner, Letscher & Zomorodian 2002; Freeman & Bruna 2017 (level sets of losses).

    Example:
        >>> import torch
        >>> [basin.persistence for basin in basins(torch.tensor([1.0, 3.0, 0.0, 2.0, 1.5]))]
        [inf, 2.0, 0.5]
    """
    shape = tuple(values.shape)
    flat = values.detach().reshape(-1).double().tolist()
    order = sorted((i for i, value in enumerate(flat) if math.isfinite(value)), key=flat.__getitem__)
    if not order:
        raise SettingError(
            "basins() needs at least one finite value", f"shape {shape}", "Check the function."
        )
    leader: dict[int, int] = {}
    ended: dict[int, tuple[int, int]] = {}  # minimum -> (saddle, minimum of the basin it joined)

    def root(point: int) -> int:
        while leader[point] != point:
            leader[point] = leader[leader[point]]
            point = leader[point]
        return point

    rank = {point: position for position, point in enumerate(order)}
    for point in order:
        leader[point] = point
        # Roots are minima; the eldest comes first in the order.
        roots = sorted(
            {root(other) for other in _neighbours(point, shape) if other in leader}, key=rank.__getitem__
        )
        if roots:
            leader[point] = roots[0]
        for younger in roots[1:]:
            leader[younger] = roots[0]
            ended[younger] = (point, roots[0])
    return _listed(flat, shape, [p for p in order if p == root(p) or p in ended], ended, at_least)


def _listed(
    flat: list[float],
    shape: tuple[int, ...],
    minima: list[int],
    ended: dict[int, tuple[int, int]],
    at_least: float,
) -> list[Basin]:
    depth = {p: flat[ended[p][0]] - flat[p] if p in ended else math.inf for p in minima}
    kept = sorted((p for p in minima if depth[p] > at_least), key=lambda p: (-depth[p], flat[p]))
    position = {p: i for i, p in enumerate(kept)}

    def parent(point: int) -> int:
        while point in ended:
            point = ended[point][1]
            if point in position:
                return position[point]
        return -1

    found = []
    for p in kept:
        saddle = ended[p][0] if p in ended else None
        death = math.inf if saddle is None else flat[saddle]
        where = () if saddle is None else _indices(saddle, shape)
        found.append(Basin(flat[p], death, _indices(p, shape), where, parent(p)))
    return found


def _indices(point: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    found = []
    for size in reversed(shape):
        point, index = divmod(point, size)
        found.append(index)
    return tuple(reversed(found))


def _neighbours(point: int, shape: tuple[int, ...]) -> Iterator[int]:
    here = _indices(point, shape)
    for steps in product((-1, 0, 1), repeat=len(shape)):
        there = [i + step for i, step in zip(here, steps, strict=True)]
        if any(steps) and all(0 <= i < size for i, size in zip(there, shape, strict=True)):
            flat = 0
            for i, size in zip(there, shape, strict=True):
                flat = flat * size + i
            yield flat


def sublevel_components(values: Tensor, level: float) -> int:
    """Number of connected components of {f <= level}.

    >>> import torch
    >>> sublevel_components(torch.tensor([1.0, 3.0, 0.0, 2.0, 1.5]), 1.6)
    3
    """
    if not bool((values <= level).any()):
        return 0
    return sum(basin.birth <= level < basin.death for basin in basins(values))
