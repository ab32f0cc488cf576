"""Weight normalisation: the gates of the claim, and the direct formula of the gradient."""

import pytest
import torch

from torchstone.atlas.claims.signal import weight_norm_gradient as claim
from torchstone.atlas.conformance import ClaimConformance


class TestWeightNormGradient(ClaimConformance):
    id = "weight_norm_gradient"

    def test_v_and_its_gradient_are_orthogonal_and_v_never_shrinks(self):
        assert self.measured("largest |cos(v, grad_v)| over all steps and units") <= 1e-10
        assert self.measured("smallest change of |v| in a step") >= -1e-12

    def test_outputs_grow_with_the_inputs(self):
        assert self.measured("outputs for ten times the inputs, ratio of norms") == pytest.approx(10)


def test_the_gradient_in_v_is_the_papers():
    draw = lambda *shape: torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    g, v, c = draw(3, 1), draw(3, 5).requires_grad_(True), draw(3, 5) ** 2
    [found] = torch.autograd.grad((claim.normalised(g, v) * c).sum(), v)
    unit = v.detach() / v.detach().norm(dim=1, keepdim=True)
    expected = g / v.detach().norm(dim=1, keepdim=True) * (c - (c * unit).sum(1, keepdim=True) * unit)
    torch.testing.assert_close(found, expected)


def test_the_counterexample_shortens_v():
    draw = lambda *shape: torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = claim.descend(claim.scaled, draw(6, 1).abs(), draw(6, 8), draw(64, 8), draw(64, 6), 50)
    assert float(found.norms.diff(dim=0).min()) < -0.01
