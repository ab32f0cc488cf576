"""Double descent: the gate against formulas written out again, and the closed forms against each other."""

import pytest
import torch

from torchstone.atlas.claims.risk import double_descent
from torchstone.atlas.conformance import ClaimConformance


class TestDoubleDescent(ClaimConformance):
    id = "double_descent"

    @pytest.mark.parametrize(
        ("gamma", "closed_form"),
        [(0.5, 1.0), (0.8, 4.0), (1.5, 5 * (1 - 1 / 1.5) + 1 / 0.5), (3.0, 5 * (1 - 1 / 3) + 1 / 2)],
    )
    def test_risk_is_within_8_percent_of_the_closed_form(self, gamma, closed_form):
        name = f"excess risk at p/n = {gamma}"
        assert self.measured(name) == pytest.approx(closed_form, rel=0.08)
        [error] = [check.standard_error for check in self.result.evidence.checks if check.name == name]
        assert error is not None
        assert 0 < error < 0.02 * closed_form  # small beside the 8%

    def test_the_peak_is_where_parameters_equal_examples(self):
        assert double_descent.EXAMPLES == 400
        assert {0.9, 1.0, 1.1} < set(double_descent.SWEEP)
        assert self.measured("p/n of the highest median risk") == 1.0


def test_the_finite_formula_tends_to_the_limit():
    for gamma in (0.5, 0.8, 1.5, 3.0):
        n = 10**6
        exact = double_descent.exact_mean(n, round(gamma * n))
        assert exact == pytest.approx(double_descent.asymptotic(gamma), rel=1e-4)


@pytest.mark.parametrize("gamma", [0.3, 1.0, 2.5])
def test_the_ridge_formula_is_the_trace_of_the_posterior(gamma):
    """The risk of the posterior mean is s^2 E tr (X'X + penalty)^-1."""
    n, generator = 600, torch.Generator().manual_seed(0)
    p = round(gamma * n)
    x = torch.randn(n, p, generator=generator, dtype=torch.float64)
    penalty = double_descent.NOISE * p / double_descent.SIGNAL
    values = torch.linalg.svdvals(x).square()
    trace = (1 / (values + penalty)).sum() + max(0, p - n) / penalty
    assert double_descent.ridge_asymptotic(gamma) == pytest.approx(float(trace), rel=0.01)


def test_minimum_norm_is_the_pseudo_inverse():
    generator = torch.Generator().manual_seed(1)
    for n, p in ((30, 12), (12, 30)):
        x = torch.randn(n, p, generator=generator, dtype=torch.float64)
        u, s, v = torch.linalg.svd(x, full_matrices=False)
        made = v.T @ torch.diag(double_descent.minimum_norm(s, p)) @ u.T
        assert torch.allclose(made, torch.linalg.pinv(x), atol=1e-12)
