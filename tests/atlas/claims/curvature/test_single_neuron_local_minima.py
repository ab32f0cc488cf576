"""Minima of a single neuron: the count, their places by root finding, and derivatives by automatic differentiation."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from torch import Tensor

from torchstone.atlas.claims.curvature import single_neuron_local_minima as module
from torchstone.atlas.conformance import ClaimConformance


class TestSingleNeuronLocalMinima(ClaimConformance):
    id = "single_neuron_local_minima"

    @pytest.mark.parametrize("dimension", range(1, 7))
    def test_two_to_the_d(self, dimension: int):
        assert self.measured(f"local minima, square loss, d = {dimension}") == 2**dimension

    @pytest.mark.parametrize("dimension", range(1, 7))
    def test_one_for_the_matching_loss(self, dimension: int):
        assert self.measured(f"local minima, matching loss, d = {dimension}") == 1


def slope(loss: Any, w: float) -> float:
    x, y = module.data(1)
    return float(module.derivatives(loss, x, y, torch.tensor([[w]], dtype=torch.float64))[1])


def test_an_axis_has_two_minima_and_a_maximum_between() -> None:
    """All roots of the slope on a fine grid, refined by bisection."""
    grid = np.linspace(-30, 40, 7001)
    slopes = np.array([slope(module.square, w) for w in grid])
    crossings = np.flatnonzero(np.sign(slopes[:-1]) * np.sign(slopes[1:]) < 0)
    roots = [brentq(lambda w: slope(module.square, w), grid[i], grid[i + 1]) for i in crossings]
    assert len(roots) == 3
    assert roots[0] == pytest.approx(-0.17, abs=0.005)
    assert roots[2] == pytest.approx(9.19, abs=0.005)
    assert slopes[crossings[0]] < 0 < slopes[crossings[1]]
    found = module.minima(module.square, 1, 50, torch.Generator().manual_seed(3))[:, 0].sort().values
    assert found.tolist() == pytest.approx([roots[0], roots[2]], abs=1e-8)


@pytest.mark.parametrize("loss", [module.square, module.matching])
def test_derivatives_are_those_of_automatic_differentiation(loss: Any) -> None:
    x, y = module.data(3)
    w = torch.tensor([0.3, -0.2, 1.5], dtype=torch.float64)
    total = lambda v: loss(v @ x.T, y)[0].sum()
    value, gradient, hessian = (part[0] for part in module.derivatives(loss, x, y, w[None]))
    assert float(value) == pytest.approx(float(total(w)), rel=1e-14)
    torch.testing.assert_close(gradient, torch.func.grad(total)(w))
    torch.testing.assert_close(hessian, torch.func.hessian(total)(w))


def flat(scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return 0 * (scores + targets), torch.zeros_like(scores), torch.zeros_like(scores)


def test_starts_that_settle_nowhere_refute() -> None:
    """A plateau is no minimum: its Hessian is 0."""
    assert len(module.minima(flat, 2, 25, torch.Generator().manual_seed(0))) == 25


def test_points_are_told_apart() -> None:
    points = torch.tensor([[0.0, 1.0], [1e-6, 1.0], [0.00005, 1.0], [0.0, 1.1]], dtype=torch.float64)
    assert len(module.distinct(points)) == 2
