"""Centring: gates, and step counts against plain gradient descent."""

import pytest
import torch

from torchstone.atlas.claims.signal import centring_mends_conditioning as module
from torchstone.atlas.conformance import ClaimConformance


class TestCentringMendsConditioning(ClaimConformance):
    id = "centring_mends_conditioning"

    def test_the_condition_number_drops_as_predicted(self):
        checks = {check.name: check for check in self.result.evidence.checks}
        check = checks["condition number over that after centring, shift 100"]
        assert check.measured == pytest.approx(check.expected, rel=0.05)
        assert check.expected > 1e4
        steps = checks["steps of gradient descent over those after centring, shift 100"]
        assert steps.measured == pytest.approx(check.expected, rel=0.05)

    def test_centring_brings_the_largest_singular_value_back(self):
        checks = {check.name: check for check in self.result.evidence.checks}
        check = checks["sigma_1 after centring, shift 100"]
        assert check.measured == pytest.approx(check.expected, rel=0.02)


@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_step_counts_are_those_of_plain_gradient_descent(shift: float):
    X = module.design(60, 6, torch.Generator().manual_seed(1)) + shift
    hessian = X.T @ X / len(X)
    values, vectors = torch.linalg.eigh(hessian)
    w, steps = (vectors[:, 0] + vectors[:, -1]) / 2**0.5, 0
    while float(w.norm()) > 1e-6:
        w = w - 2 / (values[0] + values[-1]) * (hessian @ w)
        steps += 1
    assert module.steps_needed(X) == steps


def test_levels_of_rows_survive_centring_the_columns_and_go_with_centring_the_rows():
    generator = torch.Generator().manual_seed(2)
    X0 = module.design(500, 10, generator)
    X = module.brightened(X0, 100.0, generator)
    norm = lambda matrix: float(torch.linalg.matrix_norm(matrix, 2))
    assert norm(X - X.mean(0)) > 0.9 * norm(X) > 50 * norm(X0)
    assert norm(X - X.mean(1, keepdim=True)) <= norm(X0) * (1 + 1e-12)
