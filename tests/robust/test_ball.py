from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from torchstone.errors import NumericalError, SettingError
from torchstone.robust import Ball, lengths
from torchstone.robust.norms import flat, wide

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def _solved(objective, gradient, ball: Ball, row: int) -> float:
    """The least value of an objective over ball and box, by a general constrained optimiser."""
    from scipy.optimize import minimize

    origin = ball.origin[row].numpy()
    eps = float(ball.eps[row])
    assert ball.bounds is not None
    low, high = (np.broadcast_to(end.numpy(), origin.shape) for end in ball.bounds)
    found = minimize(
        objective,
        np.zeros_like(origin),
        jac=gradient,
        bounds=list(zip(low - origin, high - origin, strict=True)),
        constraints={"type": "ineq", "fun": lambda d: eps**2 - d @ d, "jac": lambda d: -2 * d},
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 500},
    )
    return float(found.fun)


@pytest.fixture
def boxed() -> tuple[Ball, Tensor]:
    """A ball that the box cuts in many coordinates, and points far outside both."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(25, 6, generator=generator, dtype=torch.float64)
    eps = 0.2 + torch.rand(25, generator=generator, dtype=torch.float64)
    outside = 2 * torch.randn(25, 6, generator=generator, dtype=torch.float64)
    return Ball.around(inputs, eps, "l2", (0.0, 1.0)), outside


def test_the_l2_projection_is_the_nearest_point_of_ball_and_box(boxed: tuple[Ball, Tensor]) -> None:
    ball, outside = boxed
    got = ball.project(outside)
    for row in range(len(outside)):
        v = outside[row].numpy()
        best = _solved(lambda d, v=v: ((d - v) ** 2).sum(), lambda d, v=v: 2 * (d - v), ball, row)
        mine = float((got[row] - outside[row]).square().sum())
        assert mine == pytest.approx(best, rel=1e-7)
    assert bool((lengths(got, "l2") <= ball.eps * (1 + 1e-14)).all())


def test_the_furthest_point_maximises_a_linear_function_over_ball_and_box(boxed: tuple[Ball, Tensor]) -> None:
    ball, gradients = boxed
    got = ball.furthest(gradients)
    for row in range(len(gradients)):
        g = gradients[row].numpy()
        best = -_solved(lambda d, g=g: -(g @ d), lambda _, g=g: -g, ball, row)
        assert float(got[row] @ gradients[row]) == pytest.approx(best, rel=1e-7)


def test_a_box_smaller_than_the_ball_is_reached_at_its_corner() -> None:
    ball = Ball.around(torch.tensor([[0.25, 0.5]]), 100.0, "l2", (0.0, 1.0))
    assert ball.furthest(torch.tensor([[1.0, -1e-6]])).tolist() == [[0.75, -0.5]]
    # A coordinate without gradient stays.
    assert ball.furthest(torch.tensor([[1.0, 0.0]])).tolist() == [[0.75, 0.0]]


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("bounds", [None, (-2.0, 2.0)])
def test_projecting_twice_is_projecting_once_and_inside_points_stay(norm, bounds) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(50, 2, 3, generator=generator, dtype=torch.float64).clamp(-2, 2)
    ball = Ball.around(inputs, 0.7, norm, bounds)
    once = ball.project(torch.randn(50, 2, 3, generator=generator, dtype=torch.float64))
    assert torch.allclose(ball.project(once), once, atol=1e-15)
    assert torch.allclose(ball.project(0.5 * once), 0.5 * once, atol=1e-16)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_placed_inputs_are_inside_ball_and_box_in_every_dtype(norm, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    # 0.3 and 0.9 are between two numbers of the small dtypes.
    inputs = (0.31 + 0.58 * torch.rand(200, 3, 4, generator=generator)).to(dtype)
    for eps in (0.0, 1e-9, 0.01, 0.1, 0.3):
        ball = Ball.around(inputs, eps, norm, (0.3, 0.9))
        for perturbation in (
            ball.random(generator),
            ball.furthest(torch.randn(200, 3, 4, generator=generator)),
        ):
            placed = ball.place(perturbation)
            assert placed.dtype == dtype
            moved = wide(placed) - wide(inputs)
            assert bool((lengths(moved, norm) <= eps + 1e-15).all())
            assert float(placed.double().min()) >= 0.3
            assert float(placed.double().max()) <= 0.9


def test_placing_rounds_to_the_nearest_number_where_that_is_inside() -> None:
    inputs = torch.ones(1, 2, dtype=torch.bfloat16)  # neighbours: 1 - 2^-8 and 1 + 2^-7
    ball = Ball.around(inputs, 1.0, "linf")
    assert ball.place(torch.tensor([[0.007, 0.002]])).double().tolist() == [[1.0078125, 1.0]]
    tight = Ball.around(inputs, 0.007, "linf")
    assert tight.place(torch.tensor([[0.007, 0.002]])).double().tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_random_points_are_uniform_in_the_ball(norm) -> None:
    from scipy.stats import kstest

    inputs = torch.zeros(4000, 3, dtype=torch.float64)
    eps = torch.linspace(0.5, 2.0, 4000, dtype=torch.float64)
    ball = Ball.around(inputs, eps, norm)
    points = ball.random(torch.Generator().manual_seed(0))
    # In a uniform ball of dimension d the d-th power of the relative norm is uniform on [0, 1].
    assert kstest((lengths(points, norm) / eps).numpy() ** 3, "uniform").pvalue > 1e-3
    assert float(points.mean(dim=0).abs().max()) < 5 * float(eps.max()) / 4000**0.5
    again = ball.random(torch.Generator().manual_seed(0))
    assert torch.equal(points, again)


def test_bounds_may_differ_by_channel() -> None:
    inputs = torch.zeros(2, 3, 2, 2)
    low, high = -torch.tensor([1.0, 2.0, 3.0])[:, None, None], torch.tensor([1.0, 2.0, 3.0])[:, None, None]
    placed = Ball.around(inputs, 10.0, "linf", (low, high)).furthest(torch.ones_like(inputs))
    assert placed.amax(dim=(0, 2, 3)).tolist() == [1.0, 2.0, 3.0]


def test_the_callers_inputs_are_copied() -> None:
    inputs = torch.zeros(1, 2)
    ball = Ball.around(inputs, 1.0)
    inputs += 1
    assert flat(ball.origin).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (
            (torch.zeros(2, 3, dtype=torch.int64), 0.1),
            SettingError,
            "floating point inputs.*int64.*embeddings",
        ),
        ((torch.tensor(1.0), 0.1), SettingError, "at least one feature; got shape \\(\\)"),
        ((torch.zeros(2, 0), 0.1), SettingError, "at least one feature"),
        ((torch.tensor([[torch.nan, 1.0]]), 0.1), NumericalError, "finite inputs; got 1 NaN"),
        ((torch.tensor([[torch.inf, 1.0]]), 0.1), NumericalError, "finite inputs"),
        ((torch.zeros(2, 3), -0.1), SettingError, "eps must be at least 0; got -0.1"),
        ((torch.zeros(2, 3), float("nan")), SettingError, "eps must be at least 0"),
        ((torch.zeros(2, 3), torch.zeros(3)), SettingError, "shape \\(2,\\); got shape \\(3,\\)"),
        ((torch.zeros(2, 3), 0.1, "l1"), SettingError, "norm must be"),
        ((torch.zeros(2, 3), 0.1, "l2", (1.0, 0.0)), SettingError, "low <= high"),
        ((torch.full((2, 3), 2.0), 0.1, "l2", (0.0, 1.0)), SettingError, "inputs from 2 to 2.*normalisation"),
    ],
)
def test_errors_say_what_to_do(arguments, error, words: str) -> None:
    with pytest.raises(error, match=words):
        Ball.around(*arguments)
