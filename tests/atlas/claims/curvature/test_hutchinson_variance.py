"""The variance of Hutchinson's probes: gates against formulas written out entry by entry."""

import itertools

import pytest
import torch

from torchstone.atlas.claims.curvature import hutchinson_variance
from torchstone.atlas.conformance import ClaimConformance


class TestHutchinsonVariance(ClaimConformance):
    id = "hutchinson_variance"

    @pytest.mark.parametrize("kind", ["random signs", "normal"])
    def test_variance_is_within_3_percent(self, kind):
        assert hutchinson_variance.PROBES == 200_000
        [check] = [c for c in self.result.evidence.checks if c.name == f"variance of a probe, {kind}"]
        assert abs(check.measured / check.expected - 1) < 0.03

    def test_no_error_on_a_diagonal_matrix(self):
        assert self.measured("largest error on a diagonal matrix, random signs") <= 1e-12


def test_the_formula_is_the_variance_over_all_sign_vectors():
    """Every one of the 2^n probes, instead of a sample."""
    matrix = torch.randn(7, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    probes = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=7)), dtype=torch.float64)
    forms = ((probes @ matrix) * probes).sum(1)
    half = (matrix + matrix.T) / 2
    formula = 2 * (half.square().sum() - half.diagonal().square().sum())
    assert float(forms.var(correction=0)) == pytest.approx(float(formula), rel=1e-12)
    assert float(forms.mean()) == pytest.approx(float(matrix.trace()), rel=1e-12)


def test_the_standard_error_of_a_variance():
    """For normal draws it is sqrt(2/n) s^2."""
    draws = torch.randn(400, 1000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    errors = [hutchinson_variance.error_of_variance(row) for row in draws]
    assert sum(errors) / len(errors) == pytest.approx((2 / 1000) ** 0.5, rel=0.02)
    assert float(draws.var(dim=1).std()) == pytest.approx(sum(errors) / len(errors), rel=0.12)
