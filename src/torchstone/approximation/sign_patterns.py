r"""All ways in which an affine function can be positive and negative on given points.

A pattern is sign(w'x_i + b) over i. In the space of (w, b) each point is a hyperplane through 0, and patterns are the cells
of this arrangement. Adding the last hyperplane h to an arrangement cuts exactly those cells that h itself passes through,
and what the others do within h is an arrangement of one dimension less. So cells are found without a single linear program,
in any position of the points, each with a (w, b) strictly inside.

n points in general position of R^d have 2 sum_{i=0}^{d} C(n - 1, i) patterns; other positions have fewer.
Source: Cover 1965, theorem 1 (the count); Schläfli 1901; Zaslavsky 1975 (deletion and restriction).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int8
from torch import Tensor

from torchstone.errors import SettingError

_FLAT = 1e-9  # of a unit vector, below which a component counts as 0
Cells = dict[tuple[int, ...], np.ndarray]


@dataclass(frozen=True)
class SignPatterns:
    """Sign patterns with an affine function that realises each.

    Args:
        signs: +1 or -1 for each pattern and point, (P, n).
        units: (w, b) strictly inside each cell, (P, d + 1), of length 1.
    """

    signs: Int8[np.ndarray, "P n"]
    units: Float[np.ndarray, "P d+1"]

    def __len__(self) -> int:
        return len(self.signs)


def pattern_count(points: int, dimension: int) -> int:
    """Patterns of affine functions on n points in general position of R^d: 2 sum_{i=0}^{d} C(n - 1, i).

    >>> pattern_count(8, 2), pattern_count(3, 5)
    (58, 8)
    """
    return 2 * sum(math.comb(points - 1, i) for i in range(dimension + 1))


def sign_patterns(points: Float[Tensor, "n d"] | Float[np.ndarray, "n d"]) -> SignPatterns:
    """Every sign pattern that some affine function has on the points without being 0 on any of them.

    Cost: of the order of P n d operations, P the number of patterns, which grows like n^d. Exact up to rounding: points
    closer to degenerate than 1e-9 count as degenerate.

    Args:
        points: One a row; duplicates and points on common hyperplanes are allowed.

    Raises:
        SettingError: No points, or numbers that are not finite.

    >>> len(sign_patterns(np.array([[0.0], [1.0], [3.0]])))
    6
    """
    x = np.asarray(points, dtype=np.float64)
    if x.ndim != 2 or not x.size or not np.isfinite(x).all():
        raise SettingError(
            "sign_patterns() takes finite points as rows (n, d)", f"shape {x.shape}", "Pass one a row."
        )
    # The scale of each coordinate does not matter to patterns and does to rounding.
    spread = np.ptp(x, axis=0)
    spread[spread == 0] = 1.0
    middle = x.mean(axis=0)
    normals = np.column_stack([(x - middle) / spread, np.ones(len(x))])
    cells = _cells(normals / np.linalg.norm(normals, axis=1, keepdims=True))
    signs = np.array(list(cells), dtype=np.int8)
    found = np.array(list(cells.values()))
    weights = found[:, :-1] / spread
    units = np.column_stack([weights, found[:, -1] - weights @ middle])
    return SignPatterns(signs, units / np.linalg.norm(units, axis=1, keepdims=True))


def _cells(normals: np.ndarray) -> Cells:
    """Sign vectors of the cells of hyperplanes normal to unit rows, each with a point strictly inside.

    Hyperplanes are added one by one; those that a new one coincides with keep it from cutting anything.
    """
    dimension = normals.shape[1]
    cells: Cells = {(): np.zeros(dimension)}
    for index, normal in enumerate(normals):
        cut = _cells_within(normals[:index], normal)
        grown: Cells = {}
        for signs, inside in cells.items():
            if signs in cut:
                on_it = cut[signs]
                step = _clearance(normals[:index], on_it)
                for sign in (1, -1):
                    grown[(*signs, sign)] = _unit(on_it + sign * step * normal)
            else:
                grown[(*signs, 1 if normal @ inside > 0 else -1)] = inside
        cells = grown
    return cells


def _cells_within(others: np.ndarray, normal: np.ndarray) -> Cells:
    """Cells that the other hyperplanes cut the hyperplane of `normal` into, in the coordinates of the whole space."""
    basis = _orthonormal_complement(normal)
    inner = others @ basis
    lengths = np.linalg.norm(inner, axis=1, keepdims=True)
    if (lengths < _FLAT).any():  # the same hyperplane again
        return {}
    if basis.shape[1] == 0:
        return {(): np.zeros(len(normal))}
    return {signs: basis @ inside for signs, inside in _cells(inner / lengths).items()}


def _orthonormal_complement(normal: np.ndarray) -> np.ndarray:
    """Orthonormal columns that span what is orthogonal to a unit vector, (D, D - 1), by a Householder reflection."""
    mirror = normal.copy()
    mirror[0] += math.copysign(1.0, normal[0])
    reflection = np.eye(len(normal)) - 2 * np.outer(mirror, mirror) / (mirror @ mirror)
    return reflection[:, 1:]


def _clearance(others: np.ndarray, point: np.ndarray) -> float:
    """A step from a point that crosses none of the other hyperplanes."""
    return 0.5 * float(np.abs(others @ point).min()) if len(others) else 1.0


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)
