"""The Jacobian of residual blocks: gates, the identity by hand, and the worst case in closed form."""

import math

import pytest
import torch

from torchstone.atlas.claims.signal import residual_jacobian
from torchstone.atlas.conformance import ClaimConformance


class TestResidualJacobian(ClaimConformance):
    id = "residual_jacobian"

    def test_the_jacobian_is_identity_plus_branch_and_weyl_is_never_violated(self):
        assert self.measured("largest |J' - (I + J)|") < 1e-10
        assert self.measured("singular values of I + J outside [1 - |J|, 1 + |J|]") == 0

    def test_scaled_blocks_never_leave_their_interval(self):
        name = "singular values of 50 scaled blocks outside [(1 - eps/L)^L, (1 + eps/L)^L]"
        assert self.measured(name) == 0

    def test_condition_numbers_of_scaled_and_plain_networks(self):
        assert self.measured("condition number of 50 scaled blocks") < (51 / 49) ** 50
        assert self.measured("condition number of 50 plain ReLU layers") > 1e6


def test_the_jacobian_against_the_chain_rule_by_hand():
    generator = torch.Generator().manual_seed(0)
    inner = residual_jacobian.branch(8, generator, 0.7)
    x = torch.randn(8, generator=generator, dtype=torch.float64)
    first, _, second = inner.children()
    a, b = first.weight.detach(), second.weight.detach()  # pyright: ignore[reportCallIssue]
    slopes = 1 - torch.tanh(a @ x).square()
    assert torch.allclose(residual_jacobian.jacobian(inner, x), b @ (slopes[:, None] * a), atol=1e-14)
    norms = [float(torch.linalg.matrix_norm(weight, 2)) for weight in (a, b)]
    assert norms[0] * norms[1] == pytest.approx(0.7)


def test_aligned_blocks_reach_the_upper_end():
    found = residual_jacobian.aligned_growth(residual_jacobian.one_over)
    for depth, value in zip(residual_jacobian.DEPTHS, found, strict=True):
        assert value == pytest.approx((1 + 1 / depth) ** depth, rel=1e-10)
        assert value == pytest.approx(residual_jacobian.interval(depth)[1], rel=1e-10)
    worse = residual_jacobian.aligned_growth(residual_jacobian.one_over_root)
    assert worse[-1] == pytest.approx((1 + 1000**-0.5) ** 1000, rel=1e-9)
    assert worse[-1] > math.exp(1) * 1e12


def test_values_outside_the_interval_are_counted():
    low, high = residual_jacobian.interval(50)
    values = torch.tensor([[high, 1.0, low], [high * 1.001, 1.0, low * 0.999]], dtype=torch.float64)
    assert residual_jacobian.outside(values, 50) == 2


def test_a_stack_of_branches_twice_as_long_leaves_the_interval_when_they_are_aligned():
    block = residual_jacobian.Residual(residual_jacobian.linear(3), scale=1 / 50)
    with torch.no_grad():
        block.branch.weight.copy_(2 * torch.eye(3))  # pyright: ignore[reportCallIssue]
    model = torch.nn.Sequential(*(block for _ in range(50)))
    values = residual_jacobian.singular_values(model, torch.ones(3, dtype=torch.float64))
    assert values.tolist() == pytest.approx([(1 + 2 / 50) ** 50] * 3)
    assert residual_jacobian.outside(values, 50) == 3
