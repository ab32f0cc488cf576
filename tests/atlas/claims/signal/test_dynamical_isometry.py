"""Dynamical isometry: gates against numbers of their own, and the Jacobian against automatic differentiation."""

import pytest
import torch

from torchstone.atlas.claims.signal import dynamical_isometry
from torchstone.atlas.conformance import ClaimConformance

SHALLOW = {family.name: family for family in dynamical_isometry.SHALLOW}


class TestDynamicalIsometry(ClaimConformance):
    id = "dynamical_isometry"

    @pytest.mark.parametrize(
        ("name", "variance"), [("Gaussian linear", 6), ("Gaussian ReLU", 12), ("orthogonal ReLU", 6)]
    )
    def test_variances_are_L_2L_and_L_within_20_percent(self, name, variance):
        assert SHALLOW[name].variance(6, dynamical_isometry.free_term(SHALLOW[name].kind)) == pytest.approx(
            variance
        )
        found = self.measured(f"variance of the squared singular values, {name}, 6 layers")
        assert found == pytest.approx(variance, rel=0.2)

    def test_orthogonal_linear_networks_are_isometries(self):
        assert self.measured("largest |s - 1|, orthogonal linear, 100 layers") < 1e-10

    def test_tanh_reaches_isometry_at_depth_100_and_relu_and_logistic_do_not(self):
        name = "variance of the squared singular values, {}, 100 layers"
        assert self.measured(name.format("orthogonal tanh")) < 0.15
        for other in ("gaussian tanh", "orthogonal ReLU", "orthogonal logistic"):
            assert self.measured(name.format(other)) > 10


def test_the_tanh_network_is_at_criticality_and_its_variance_is_8_q_squared_a_layer():
    family = dynamical_isometry.near_criticality("orthogonal")
    slopes = dynamical_isometry.expectation(lambda u: family.slope(family.q**0.5 * u).square())
    assert family.weight_variance * slopes == pytest.approx(1)
    assert 1 < family.weight_variance < 1.05
    assert family.bias_variance > 0
    assert family.variance(1, 0.0) == pytest.approx(8 * family.q**2, rel=0.15)


@pytest.mark.parametrize("kind", ["gaussian", "orthogonal"])
def test_the_product_is_the_jacobian_of_the_network(kind):
    """The same draws, run as a function and differentiated by PyTorch."""
    family, width, depth = dynamical_isometry.near_criticality(kind), 12, 4
    found = dynamical_isometry.squared_singular_values(family, width, depth, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    start, layers = family.q**0.5 * draw(width), []
    for _ in range(depth):
        weights = draw(width, width) / width**0.5
        if kind == "orthogonal":
            basis, triangle = torch.linalg.qr(weights)
            weights = basis * triangle.diagonal().sign()
            assert torch.allclose(weights @ weights.T, torch.eye(width, dtype=torch.float64))
        layers.append((weights * family.weight_variance**0.5, family.bias_variance**0.5 * draw(width)))

    def network(h):
        for weights, bias in layers:
            h = weights @ torch.tanh(h) + bias
        return h

    exact = torch.linalg.svdvals(torch.autograd.functional.jacobian(network, start)).square()  # pyright: ignore[reportArgumentType]
    assert torch.allclose(found, exact, rtol=1e-9, atol=1e-14)
