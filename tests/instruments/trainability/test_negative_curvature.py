"""Minimum, saddle or slope: on losses whose answer is known by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone.details import Curve, Scalars
from torchstone.instruments.measurement import measure
from torchstone.instruments.trainability.negative_curvature import NegativeCurvature, judge
from torchstone.objectives import Classification, Regression
from torchstone.reading import Level, Reading
from torchstone.specimen import Specimen
from torchstone.testing import dense_hessian
from torchstone.workbench import Workbench


class Product(nn.Module):
    """x times the product of two weights: (1 - a b)^2 has a strict saddle at 0 with eigenvalues 2 and -2."""

    def __init__(self, start: float, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.full((1,), start, dtype=dtype))
        self.b = nn.Parameter(torch.full((1,), start, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.a * self.b


class Shallow(nn.Module):
    """1 + sum of h(w_i) whatever the input; h is the loss in each weight."""

    def __init__(self, start: list[float], power: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(start, dtype=torch.float64))
        self.power = power

    def forward(self, x: Tensor) -> Tensor:
        bowl = self.w[0].square() + self.power * (self.w[1].pow(4) - self.w[1].square())
        return (1 + bowl).sqrt().expand(len(x), 1)


def examine(model: nn.Module, **settings: Any) -> Reading:
    x = torch.ones(6, 1, dtype=torch.float64)
    target = torch.ones(6, 1, dtype=torch.float64)
    if isinstance(model, Shallow):
        target = torch.zeros(6, 1, dtype=torch.float64)
    return measure(NegativeCurvature(**settings), Workbench.on(Specimen(model, Regression(), (x, target))))


def numbers_of(reading: Reading) -> dict[str, float]:
    scalars = next(one for one in reading.details if isinstance(one, Scalars))
    return {item.name: item.value for item in scalars.items}


def test_a_strict_saddle_is_found_and_left() -> None:
    reading = examine(Product(0.0))
    assert reading.value == pytest.approx(-2.0, rel=1e-12)
    assert reading.verdict.level is Level.ATTENTION
    assert "strict saddle" in reading.verdict.reason
    # By curvature all of the loss is gained at distance 1; along (1, 1)/sqrt(2) it is (1 - 1/2)^2 there.
    gained = numbers_of(reading)["share of the loss gained along the eigenvector"]
    assert gained == pytest.approx(1 - (1 - 1 / 2) ** 2, rel=1e-9)
    assert numbers_of(reading)["share of the loss gained along the gradient"] == 0.0
    assert reading.remedies


def test_the_measured_curve_is_the_loss_and_the_model_its_parabola() -> None:
    reading = examine(Product(0.0))
    curve = next(one for one in reading.details if isinstance(one, Curve))
    measured, model = curve.lines
    assert measured.x == tuple(sorted(measured.x))
    for t, loss, parabola in zip(measured.x, measured.y, model.y, strict=True):
        sign = 1 if measured.y[0] < 1 else -1  # the sign of an eigenvector is free, the loss even
        assert loss == pytest.approx((1 - sign * t * t / 2) ** 2, abs=1e-9)
        assert parabola == pytest.approx(1 - t * t, abs=1e-9)


def test_a_minimum_is_one_up_to_the_resolution() -> None:
    reading = examine(Product(1.0))  # (1 - a b)^2 at a = b = 1: eigenvalues 4 and 0
    assert reading.verdict.level is Level.GOOD
    assert "minimum up to the resolution" in reading.verdict.reason
    assert reading.value == pytest.approx(0.0, abs=1e-12)
    assert any("cannot be told from 0" in note for note in reading.notes)
    assert not reading.remedies


def test_a_slope_with_negative_curvature_is_no_saddle() -> None:
    reading = examine(Product(0.5))  # off-diagonal -2 (1 - 2 a b) = -1, diagonal 2 a^2 = 1/2: smallest -1/2
    assert reading.value == pytest.approx(-0.5, rel=1e-9)
    assert reading.verdict.level is Level.INFORMATIVE
    assert "not at a critical point" in reading.verdict.reason
    assert numbers_of(reading)["share of the loss gained along the gradient"] > 0.5


def test_a_saddle_with_nothing_to_gain_is_good() -> None:
    # 1 + u^2 + p (w^4 - w^2) at 0 falls by p/4 at most, at w^2 = 1/2.
    reading = examine(Shallow([0.0, 0.0], 0.02))
    assert reading.value == pytest.approx(-0.04, rel=1e-9)
    assert reading.verdict.level is Level.GOOD
    assert "next to nothing to gain" in reading.verdict.reason
    worth = examine(Shallow([0.0, 0.0], 0.2))
    assert worth.verdict.level is Level.ATTENTION
    assert numbers_of(worth)["share of the loss gained along the eigenvector"] == pytest.approx(
        0.2 / 4, rel=1e-9
    )


def test_a_gain_below_what_is_asked_does_not_count() -> None:
    assert examine(Shallow([0.0, 0.0], 0.2), worth=0.06).verdict.level is Level.GOOD


def test_float32_keeps_the_sign() -> None:
    x = torch.ones(6, 1)
    specimen = Specimen(Product(0.0, torch.float32), Regression(), (x, x))
    reading = measure(NegativeCurvature(), Workbench.on(specimen))
    assert reading.value == pytest.approx(-2.0, rel=1e-5)
    assert numbers_of(reading)["rounding error of the products"] == pytest.approx(
        10 * 2 * torch.finfo(torch.float32).eps, rel=1e-3
    )
    assert reading.verdict.level is Level.ATTENTION


def test_the_smallest_eigenvalue_is_that_of_the_dense_hessian() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 5, generator=generator, dtype=torch.float64)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    specimen = Specimen(model, Classification(), (x, x[:, :3].argmax(1)))
    reading = measure(NegativeCurvature(tolerance=1e-6), Workbench.on(specimen))
    smallest = float(torch.linalg.eigvalsh(dense_hessian(specimen))[0])
    assert smallest < 0
    assert reading.value == pytest.approx(smallest, rel=1e-6)
    assert reading.uncertainty is not None
    assert reading.uncertainty.low <= smallest <= reading.uncertainty.high


def test_a_loss_of_zero_gains_nothing() -> None:
    reading = examine(Product(1.0))
    assert numbers_of(reading)["share of the loss gained along the eigenvector"] == 0.0


@pytest.mark.parametrize(
    ("smallest", "gained", "by_gradient", "level"),
    [
        (-1.0, 0.5, 0.0, Level.ATTENTION),
        (-1.0, 0.001, 0.0, Level.GOOD),
        (-1e-9, 0.001, 0.0, Level.GOOD),
        (-1e-9, 0.5, 0.0, Level.INFORMATIVE),  # steps, which derivatives do not see
        (1.0, 0.0, 0.0, Level.GOOD),
        (-1.0, 0.5, 0.2, Level.INFORMATIVE),
        (1.0, 0.0, math.inf, Level.INFORMATIVE),
    ],
)
def test_judge(smallest: float, gained: float, by_gradient: float, level: Level) -> None:
    assert judge(smallest, 1e-8, gained, by_gradient, 0.01).level is level


@pytest.mark.parametrize("activation", [nn.Identity, nn.Tanh])
@pytest.mark.parametrize("size", [0.0, 1e-4])
def test_a_saddle_near_zero_weights_is_seen_however_small_they_are(activation: Any, size: float) -> None:
    """Of two layers without biases: f = |y - B a(A x)|^2 / N. At zero lambda_min is -2 / N times the largest singular value of
    y^T x, by the block structure of the Hessian, and f falls along its direction until the product fits."""
    g = torch.Generator().manual_seed(5)
    x = torch.randn(40, 4, generator=g, dtype=torch.float64)
    y = x @ torch.randn(4, 2, generator=g, dtype=torch.float64)
    model = nn.Sequential(nn.Linear(4, 6, bias=False), activation(), nn.Linear(6, 2, bias=False)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(size * torch.randn(parameter.shape, generator=g, dtype=torch.float64))
    reading = measure(NegativeCurvature(), Workbench.on(Specimen(model, Regression(), (x, y))))
    exact = 2 * float(torch.linalg.matrix_norm(y.T @ x, 2)) / y.numel()
    assert reading.value == pytest.approx(-exact, rel=1e-3)
    assert reading.verdict.level is Level.ATTENTION
    assert "strict saddle" in reading.verdict.reason
    assert numbers_of(reading)["share of the loss gained along the eigenvector"] > 0.1
    curve = next(one for one in reading.details if isinstance(one, Curve))
    assert curve.x.label == "distance in weight space"
