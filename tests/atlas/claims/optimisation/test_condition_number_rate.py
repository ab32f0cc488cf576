"""Rates of gradient descent: gates, and the two-dimensional case by hand."""

import math

import pytest
import torch

from torchstone.atlas.claims.optimisation import condition_number_rate as module
from torchstone.atlas.conformance import ClaimConformance


class TestConditionNumberRate(ClaimConformance):
    id = "condition_number_rate"

    @pytest.mark.parametrize("k", [2, 10, 100])
    def test_contraction_to_a_millionth(self, k: int):
        assert abs(self.measured(f"factor of the error a step, k = {k}") - (k - 1) / (k + 1)) < 1e-6

    def test_steps_are_proportional_to_the_condition_number(self):
        assert self.measured("steps with k = 100 over steps with k = 10") == pytest.approx(10, rel=0.05)


def test_two_dimensions_by_hand():
    hessian = torch.diag(torch.tensor([1.0, 3.0], dtype=torch.float64))
    assert module.kappa(hessian) == pytest.approx(3)
    path = module.errors(hessian, module.best_step(3.0, 1.0), 5)
    # Factors 1/2 and -1/2 along the axes.
    assert path.tolist() == pytest.approx([0.5**t for t in range(6)])
    assert module.worst_factor(hessian, 0.6) == pytest.approx(0.8)


def test_steps_that_the_theory_needs():
    assert module.limit(3, 1e-6) == math.ceil(6 * math.log(10) / math.log(2)) == 20
    assert module.steps_to(torch.tensor([1.0, 0.1, 0.01]), 0.1) == 1
    assert module.steps_to(torch.tensor([1.0, 0.5]), 0.1) == 2


def test_a_random_hessian_has_the_condition_number_asked_for():
    matrix = module.quadratic(50, 6, torch.Generator().manual_seed(0))
    values = torch.linalg.eigvalsh(matrix)
    assert float(values[-1] / values[0]) == pytest.approx(50)
    assert float(values[0]) == pytest.approx(module.LEAST)
