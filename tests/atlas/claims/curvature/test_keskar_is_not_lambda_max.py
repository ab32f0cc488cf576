"""Keskar's sharpness of quadratics: the gates, and the bowl itself."""

import pytest
import torch

from torchstone.atlas.claims.curvature import keskar_is_not_lambda_max as module
from torchstone.atlas.conformance import ClaimConformance
from torchstone.testing import dense_hessian


class TestKeskarIsNotLambdaMax(ClaimConformance):
    id = "keskar_is_not_lambda_max"

    def test_half_epsilon_squared_times_the_trace(self):
        assert self.measured("largest relative deviation from eps^2 / 2 times the trace") <= 1e-6

    def test_equal_eigenvalues_and_eightfold_sharpness_and_the_other_way_round(self):
        name = "sharpness of diag(1, ..., 1) over that of diag(1, 0, ..., 0), n = 8"
        assert self.measured(name) == pytest.approx(8, rel=1e-6)
        name = "sharpness of diag(8, 0, ..., 0) over that of diag(1, ..., 1)"
        assert self.measured(name) == pytest.approx(1, rel=1e-6)


def test_the_bowl_has_the_hessian_asked_for() -> None:
    a = torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    hessian = a @ a.T
    specimen = module.bowl(hessian)
    torch.testing.assert_close(dense_hessian(specimen), hessian)
    assert specimen.risk() == 0.0


def test_the_best_corner_of_two_dimensions() -> None:
    hessian = torch.tensor([[1.0, -2.0], [-2.0, 5.0]], dtype=torch.float64)
    assert module.best_corner(hessian) == 10.0


def test_the_product_network_by_hand() -> None:
    """(u v - 1)^2 is largest at u = v = 1 + 2 eps: (4 eps + 4 eps^2)^2, 16 eps^2 to second order."""
    rise, second = module.product_rise(0.1)
    assert rise == pytest.approx((0.4 + 0.04) ** 2, rel=1e-9)
    assert second == pytest.approx(16 * 0.01)
