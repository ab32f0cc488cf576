"""Stochastic Lanczos quadrature: moments to 1e-9, log-determinants to 1%, distributions to 2% of their range."""

import math

import pytest
import torch

from torchstone.atlas.claims.curvature import lanczos_quadrature as module
from torchstone.atlas.conformance import ClaimConformance

NAMES = ["even", "over four decades", "as 1/i"]


class TestLanczosQuadrature(ClaimConformance):
    id = "lanczos_quadrature"

    @pytest.mark.parametrize("name", [*NAMES, "two values"])
    def test_moments_below_2k_are_exact_to_1e_9(self, name):
        assert self.measured(f"error of v'A^p v for p <= 15, {name}") < 1e-9

    def test_log_determinant_within_1_percent(self):
        assert (module.SIZE, module.STEPS, module.PROBES) == (500, 30, 30)
        exact = sum(math.log(1 + 99 * i / 499) for i in range(500))
        assert self.measured("log-determinant") == pytest.approx(exact, rel=0.01)

    @pytest.mark.parametrize("name", NAMES)
    def test_wasserstein_distance_below_2_percent_of_the_range(self, name):
        assert self.measured(f"distance to the spectrum, {name}") < 0.02


def test_the_distance_is_that_of_sorted_quantiles():
    """On the line, Wasserstein-1 is the mean distance between values of equal rank."""
    values = torch.tensor([0.0, 1.0, 5.0, 6.0], dtype=torch.float64)
    rules = (torch.tensor([[0.5, 2.0], [5.0, 9.0]]).double(), torch.full((2, 2), 0.5).double())
    assert module.wasserstein(rules, values) == pytest.approx((0.5 + 1.0 + 0.0 + 3.0) / 4)
