"""Saddles: gates against closed forms, and the search for critical points against a loss whose points are known."""

import math

import pytest
import torch

from torchstone.atlas.claims.curvature import saddles_in_high_dimension as claim
from torchstone.atlas.conformance import ClaimConformance


class TestSaddlesInHighDimension(ClaimConformance):
    id = "saddles_in_high_dimension"

    def test_two_by_two_is_within_1_percent(self):
        measured = self.measured("share of positive definite matrices, n = 2")
        assert measured == pytest.approx((2 - math.sqrt(2)) / 4, rel=0.01)

    def test_three_by_three_is_within_5_percent(self):
        measured = self.measured("share of positive definite matrices, n = 3")
        assert measured == pytest.approx((math.pi - 2 * math.sqrt(2)) / (4 * math.pi), rel=0.05)

    def test_index_rises_with_the_loss(self):
        assert self.measured("rank correlation of index and loss") > 0.7


def test_two_by_two_by_integration():
    """(a, b, c) in polar form: positive definite where the trace exceeds the distance of the eigenvalues."""
    # With u = (a + c)/2 ~ N(0, 1) and r = |(a - c)/2, b| Rayleigh, both of unit scale: P(u > r).
    r = torch.linspace(0, 12, 200_001, dtype=torch.float64)
    density = r * torch.exp(-(r**2) / 2)
    tail = torch.special.ndtr(-r)
    assert float(torch.trapezoid(density * tail, r)) == pytest.approx(claim.EXACT[2], rel=1e-8)


def test_the_ensemble_has_the_variances_it_should():
    matrices = claim.orthogonal_ensemble(3, 200_000, torch.Generator().manual_seed(0))
    assert torch.equal(matrices, matrices.mT)
    variances = matrices.var(0)
    assert variances.diagonal().tolist() == pytest.approx([2.0] * 3, rel=0.02)
    assert [float(variances[0, 1]), float(variances[1, 2])] == pytest.approx([1.0, 1.0], rel=0.02)


def test_splitting_agrees_with_counting():
    """n = 4 by eigenvalues of plain draws."""
    generator = torch.Generator().manual_seed(1)
    matrices = claim.orthogonal_ensemble(4, 400_000, generator).double()
    share = float((torch.linalg.cholesky_ex(matrices).info == 0).double().mean())
    logs, errors = claim.log_probabilities(5_000, generator)
    spread = math.hypot(math.sqrt(share / 400_000), share * float(errors[3]))
    assert math.exp(float(logs[3])) == pytest.approx(share, abs=4 * spread)


def test_the_search_finds_saddle_and_minima_of_a_double_well():
    """x^4/4 - x^2/2 + y^2: critical at (0, 0), a saddle of index 1, and at (-1, 0) and (1, 0)."""
    loss = lambda w: w[0] ** 4 / 4 - w[0] ** 2 / 2 + w[1] ** 2
    starts = torch.tensor([[0.1, 0.3], [0.9, -0.2], [-1.4, 0.1]], dtype=torch.float64)
    found = claim.newton(loss, starts)
    assert found.shape == (3, 2)
    assert sorted(found[:, 0].round(decimals=8).abs().tolist()) == [0.0, 1.0, 1.0]
    assert found[:, 1].abs().max() < 1e-9


def test_points_that_only_look_critical_are_left_out():
    """log(1 + exp(x)) falls for ever: its gradient is never zero, and |gradient|^2 has no critical point to stall at."""
    loss = lambda w: torch.nn.functional.softplus(w[0]) + w[1] ** 2 + 0.1 * w[0]
    assert len(claim.newton(loss, torch.zeros(2, 2, dtype=torch.float64))) == 0
