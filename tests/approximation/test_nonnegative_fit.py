"""Non-negative least squares against SciPy's bounded solver, and the certificate."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import lsq_linear

from torchstone.approximation import nonnegative_fit, splitting_data
from torchstone.approximation import nonnegative_fit as function
from torchstone.approximation.exact_relu_fit import _cones
from torchstone.approximation.nonnegative_fit import _active_set, _certified
from torchstone.errors import NumericalError


def problems() -> list[tuple[np.ndarray, np.ndarray]]:
    generator = np.random.default_rng(0)
    found = []
    for n, m in ((8, 3), (8, 12), (5, 1), (6, 6), (20, 30)):
        for _ in range(10):
            columns = generator.normal(size=(n, m))
            if m > 2:
                columns[:, 0] = columns[:, 1]  # equal, opposite, and zero columns
                columns[:, 2] = -columns[:, -1]
                columns[:, m // 2] *= 0 if m > 6 else 1e-8
            found.append((columns, generator.normal(size=n)))
    return found


@pytest.mark.parametrize("index", range(0, 50, 3))
def test_it_is_the_minimum_that_a_bounded_solver_finds(index: int) -> None:
    columns, target = problems()[index]
    found = nonnegative_fit(columns, target)
    reference = lsq_linear(columns, target, bounds=(0, np.inf), method="bvls", tol=1e-14)
    assert found.squares == pytest.approx(2 * reference.cost, rel=1e-8, abs=1e-12)
    assert found.squares == pytest.approx(float(np.sum((columns @ found.weights - target) ** 2)), rel=1e-9)
    assert (found.weights >= 0).all()


def test_the_active_set_alone_is_certified_everywhere() -> None:
    for columns, target in problems():
        unit = columns / np.maximum(np.linalg.norm(columns, axis=0), 1e-300)
        assert _certified(unit, target, _active_set(unit, target)).violation < 1e-9


def test_dependent_columns_of_a_real_problem() -> None:
    """Two units that share rays, on data in special position, where a solver without a certificate goes wrong."""
    x, y = splitting_data(3, [(0, 1), (1, 2), (0, 2)])
    cones = _cones(x.numpy())
    for first in cones[::3]:
        for second in cones[::2]:
            columns = np.concatenate([first.outputs, -second.outputs], axis=1)
            found = nonnegative_fit(columns, y.numpy())
            reference = lsq_linear(columns, y.numpy(), bounds=(0, np.inf), method="bvls", tol=1e-14)
            assert found.squares == pytest.approx(2 * reference.cost, rel=1e-7, abs=1e-10)


def test_a_wrong_answer_is_not_certified() -> None:
    columns, target = np.eye(2), np.array([1.0, -1.0])
    assert _certified(columns, target, np.array([1.0, 0.0])).violation == 0.0
    for wrong in ([0.9, 0.0], [1.0, 0.1], [0.0, 0.0], [1.0, -0.5]):
        assert _certified(columns, target, np.array(wrong)).violation > 0.01


def test_targets_that_no_answer_fits_raise() -> None:
    with pytest.raises((NumericalError, ValueError), match=r"optimality conditions|infs or NaNs"):
        function(np.eye(2), np.array([np.nan, 1.0]))


def test_a_target_of_zero_and_no_column() -> None:
    assert nonnegative_fit(np.eye(2), np.zeros(2)).squares == 0.0
    assert nonnegative_fit(np.zeros((2, 1)), np.ones(2)).squares == 2.0
