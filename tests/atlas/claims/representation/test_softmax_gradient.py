"""Prediction minus target: gates, and finite differences that need no automatic differentiation."""

import pytest
import torch

from torchstone.atlas.claims.representation import softmax_gradient
from torchstone.atlas.conformance import ClaimConformance


class TestSoftmaxGradient(ClaimConformance):
    id = "softmax_gradient"

    @pytest.mark.parametrize("kind", ["class labels", "soft targets"])
    def test_gradient_and_hessian(self, kind):
        assert self.measured(f"gradient minus (y - t), {kind}") < 1e-10
        assert self.measured(f"Hessian minus (diag(y) - yy'), {kind}") < 1e-10

    def test_finite_at_logits_of_1e4(self):
        assert softmax_gradient.HUGE == 1e4
        assert self.measured("loss at logits 1e4: relative distance") < 1e-14
        assert self.measured("gradient at logits 1e4: distance") < 1e-14


def test_finite_differences_agree():
    z = torch.randn(6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t = torch.tensor([0.1, 0.0, 0.4, 0.2, 0.3, 0.0], dtype=torch.float64)
    h = 1e-5
    steps = h * torch.eye(6, dtype=torch.float64)
    slopes = [
        (softmax_gradient.textbook(z + s, t) - softmax_gradient.textbook(z - s, t)) / (2 * h) for s in steps
    ]
    assert torch.allclose(torch.stack(slopes), z.softmax(0) - t, atol=1e-9)


def test_the_textbook_formula_overflows_where_the_library_does_not():
    logits, labels = softmax_gradient.huge_logits()
    one_hot = torch.nn.functional.one_hot(labels, 3).double()
    written = torch.stack([softmax_gradient.textbook(z, t) for z, t in zip(logits, one_hot, strict=True)])
    assert not bool(written.isfinite().any())
