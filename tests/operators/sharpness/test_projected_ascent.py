"""Ascent over balls and boxes, against exact maxima, enumeration and SciPy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from torchstone.errors import SettingError
from torchstone.operators.sharpness import Ball, Box, maximise


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def quadratic(hessian: Tensor, slope: Tensor):
    return lambda u: (float(0.5 * u @ hessian @ u + slope @ u), hessian @ u + slope)


@pytest.mark.parametrize("seed", range(5))
def test_on_a_ball_it_solves_the_trust_region_problem(seed: int) -> None:
    """Indefinite quadratics: the global maximum is known from the secular equation."""
    A = random(8, 8, seed=seed)
    hessian, slope = A + A.T, random(8, seed=seed + 100)
    expected = trust_region_maximum(hessian, slope, 0.7)
    starts = [slope, *(Ball(0.7).sample(slope, seeded(i)) for i in range(6))]
    found = maximise(quadratic(hessian, slope), Ball(0.7), starts, evaluations=400, tolerance=1e-12)
    assert found.value == pytest.approx(expected, rel=1e-8)
    assert float(found.point.norm()) <= 0.7 * (1 + 1e-12)


def trust_region_maximum(hessian: Tensor, slope: Tensor, radius: float) -> float:
    """By bisection on the multiplier m > max(lambda_max, 0): u = (m I - H)^-1 b with ||u|| = radius."""
    values, basis = torch.linalg.eigh(hessian)
    b = basis.T @ slope
    low, high = max(float(values[-1]), 0.0) + 1e-14, float(values[-1].abs() + b.norm() / radius + 10)
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if float((b / (middle - values)).norm()) > radius else (low, middle)
    u = b / (high - values)
    return float(0.5 * (values * u * u).sum() + b @ u)


@pytest.mark.parametrize("seed", range(5))
def test_on_a_box_it_finds_what_enumeration_of_all_faces_finds(seed: int) -> None:
    """Indefinite quadratics on a box: the maximum lies where every free coordinate is stationary and concave."""
    A = random(5, 5, seed=seed)
    hessian, slope = A + A.T, random(5, seed=seed + 50)
    bounds = random(5, seed=seed + 7).abs() + 0.1
    expected = best_over_faces(hessian, slope, bounds)
    box = Box(bounds)
    starts = [box.sample(slope, seeded(i)) for i in range(20)]
    found = maximise(quadratic(hessian, slope), box, starts, evaluations=200, tolerance=1e-13)
    assert found.value == pytest.approx(expected, rel=1e-9)
    assert bool((found.point.abs() <= bounds * (1 + 1e-12)).all())


def best_over_faces(hessian: Tensor, slope: Tensor, bounds: Tensor) -> float:
    best = -math.inf
    for sides in itertools.product((-1, 0, 1), repeat=len(slope)):
        u = torch.tensor(sides, dtype=torch.float64) * bounds
        free = torch.tensor([side == 0 for side in sides])
        if bool(free.any()):
            right = -(slope + hessian @ u)[free]
            u[free] = torch.linalg.lstsq(hessian[free][:, free], right[:, None]).solution[:, 0]
        if bool((u.abs() <= bounds + 1e-12).all()):
            best = max(best, float(0.5 * u @ hessian @ u + slope @ u))
    return best


def test_it_is_as_good_as_l_bfgs_b_on_a_function_that_is_no_quadratic() -> None:
    A, c = random(12, 12, seed=3), random(12, seed=4)

    def function(u: Tensor) -> tuple[float, Tensor]:
        z = A @ u + c
        value = torch.log1p(z.square()).sum() + torch.sin(u).sum()
        return float(value), A.T @ (2 * z / (1 + z.square())) + torch.cos(u)

    box = Box(torch.full((12,), 0.8, dtype=torch.float64))
    starts = [box.sample(c, seeded(i)) for i in range(30)]
    ours = maximise(function, box, starts, evaluations=100)

    def negative(u: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = function(torch.from_numpy(u))
        return -value, -gradient.numpy()

    theirs = [
        -minimize(negative, start.numpy(), jac=True, method="L-BFGS-B", bounds=[(-0.8, 0.8)] * 12).fun
        for start in starts
    ]
    assert ours.value >= max(theirs) - 1e-6
    assert ours.gap < 1e-3


def test_a_concave_function_has_its_maximum_found_inside() -> None:
    hessian = -torch.diag(torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64))
    slope = torch.tensor([0.1, 1.0, 1.0], dtype=torch.float64)
    found = maximise(quadratic(hessian, slope), Ball(5.0), [random(3)], evaluations=400, tolerance=1e-14)
    torch.testing.assert_close(found.point, -torch.linalg.solve(hessian, slope), atol=1e-6, rtol=0)


def test_a_start_without_a_gradient_stays_and_says_so() -> None:
    found = maximise(
        quadratic(torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)),
        Ball(1.0),
        [torch.zeros(3, dtype=torch.float64)],
    )
    assert (found.value, found.gap, found.evaluations) == (0.0, 0.0, 1)


def test_values_that_are_not_finite_are_never_accepted() -> None:
    def function(u: Tensor) -> tuple[float, Tensor]:
        value = float(u.sum())
        return (value if value < 0.5 else math.nan), torch.ones_like(u)

    found = maximise(function, Ball(1.0), [torch.zeros(2, dtype=torch.float64)], evaluations=60)
    assert 0.3 < found.value < 0.5
    infinite = maximise(lambda u: (math.inf, torch.ones_like(u)), Ball(1.0), [torch.zeros(2)])
    assert infinite.value == -math.inf


def test_the_budget_is_kept() -> None:
    calls = 0

    def function(u: Tensor) -> tuple[float, Tensor]:
        nonlocal calls
        calls += 1
        return float(torch.sin(5 * u).sum()), 5 * torch.cos(5 * u)

    found = maximise(function, Ball(3.0), [random(4), random(4, seed=1)], evaluations=7, tolerance=0.0)
    assert calls == found.evaluations <= 14


def test_projections_are_nearest_points_and_extremes_maximise() -> None:
    point, gradient = 3 * random(6), random(6, seed=9)
    for region in (Ball(0.5), Box(random(6, seed=2).abs())):
        inside = [
            region.project(one) for one in (0.3 * random(50, 6, seed=5) * random(50, 1, seed=6)).unbind()
        ]
        nearest = (region.project(point) - point).norm()
        assert all(nearest <= (one - point).norm() + 1e-12 for one in inside)
        assert all(gradient @ one <= gradient @ region.extreme(gradient) + 1e-12 for one in inside)


def test_a_radius_must_be_positive() -> None:
    with pytest.raises(SettingError, match="radius of a ball must be positive and finite; got 0"):
        Ball(0)
