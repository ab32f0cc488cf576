"""Cells of arrangements: the count, every sign vector by linear programming, and points in special position."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.optimize import linprog

from torchstone.approximation import pattern_count, sign_patterns
from torchstone.errors import SettingError


def normal(n: int, d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d))


def by_linear_programs(points: np.ndarray) -> set[tuple[int, ...]]:
    """Sign vectors s with s_i (w'x_i + b) >= 1 feasible."""
    extended = np.column_stack([points, np.ones(len(points))])
    found = set()
    for signs in itertools.product((-1, 1), repeat=len(points)):
        program = linprog(
            np.zeros(extended.shape[1]),
            A_ub=-np.array(signs)[:, None] * extended,
            b_ub=-np.ones(len(points)),
            bounds=(None, None),
        )
        if program.status == 0:
            found.add(signs)
    return found


@pytest.mark.parametrize(
    ("n", "d"), [(1, 1), (2, 1), (9, 1), (8, 2), (12, 2), (10, 3), (9, 4), (3, 5), (6, 6)]
)
def test_points_in_general_position_have_exactly_the_formulas_number(n: int, d: int) -> None:
    found = sign_patterns(normal(n, d, seed=n))
    assert len(found) == pattern_count(n, d) == len({tuple(row) for row in found.signs.tolist()})


SPECIAL = {
    "general": normal(6, 2),
    "a line in the plane": np.outer(np.arange(6.0), [1.0, 2.0]),
    "duplicates": normal(3, 2).repeat(2, axis=0),
    "midpoints": np.array([[0.0, 0], [1, 0], [0, 1], [0.5, 0.5], [0.5, 0], [0, 0.5]]),
    "a grid": np.array(list(itertools.product([0.0, 1, 2], [0.0, 1]))),
    "parallel lines in space": np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1], [1, 0, 1]]),
    "tiny and huge coordinates": normal(6, 2) * [1e-6, 1e6] + [0.0, 1e7],
    "one point": np.ones((1, 3)),
    "equal points": np.ones((4, 2)),
}


@pytest.mark.parametrize("name", SPECIAL)
def test_they_are_those_that_linear_programs_find(name: str) -> None:
    points = SPECIAL[name]
    scaled = (points - points.mean(0)) / np.where(np.ptp(points, axis=0) > 0, np.ptp(points, axis=0), 1.0)
    found = sign_patterns(points)
    assert {tuple(row) for row in found.signs.tolist()} == by_linear_programs(scaled)


@pytest.mark.parametrize("name", SPECIAL)
def test_each_comes_with_a_function_that_has_it(name: str) -> None:
    points = SPECIAL[name]
    found = sign_patterns(points)
    heights = found.units[:, :-1] @ points.T + found.units[:, -1:]
    assert np.array_equal(np.sign(heights), found.signs)


@pytest.mark.parametrize("points", [np.zeros((0, 2)), np.zeros(3), np.array([[np.nan, 0.0]])])
def test_what_are_no_points_is_refused(points: np.ndarray) -> None:
    with pytest.raises(SettingError, match="finite points as rows"):
        sign_patterns(points)
