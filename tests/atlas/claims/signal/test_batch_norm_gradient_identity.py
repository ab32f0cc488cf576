"""The gradient identity by hand on a batch of three, and gates."""

import pytest
import torch

from torchstone.atlas.claims.signal import batch_norm_gradient_identity as module
from torchstone.atlas.conformance import ClaimConformance
from torchstone.atlas.run import generator_for


class TestBatchNormGradientIdentity(ClaimConformance):
    id = "batch_norm_gradient_identity"

    def test_the_identity_holds_to_1e_10(self):
        assert (
            self.measured("largest relative error of the identity, every unit of five hidden layers") < 1e-10
        )

    def test_gradients_change_less_with_batch_normalisation(self):
        name = "largest change of the gradient along a step, plain over normalised, median of five seeds"
        assert self.measured(name) > 1

    def test_both_halves_of_the_counterexample_fail(self):
        evidence = self.claim.counterexample(module.Scale.QUICK, generator_for(self.id, 0))
        assert len(evidence.refuted) == len(evidence.checks) == 2


def test_the_identity_by_hand():
    """y = (-1, 0, 1) has sigma^2 = 2/3 and y^ = y / sigma; g = (1, 0, 0) loses its mean and its part along y^."""
    y = torch.tensor([[-1.0], [0.0], [1.0]], dtype=torch.float64)
    forward = module.batch_norm(y, torch.tensor([2.0]), torch.tensor([0.0]), eps=0.0)
    g = torch.tensor([[1.0], [0.0], [0.0]], dtype=torch.float64)
    # 4 / (2/3) (1 - 1/3 - (3/2)/3) = 6 / 6
    assert float(module.squared_gradient_norm(forward, g)) == pytest.approx(1.0)


def test_the_change_of_the_gradient_of_a_quadratic_is_the_hessian_times_the_step(monkeypatch):
    model = torch.nn.Linear(2, 1, bias=False, dtype=torch.float64)
    start = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(start)
    hessian = torch.tensor([3.0, 5.0], dtype=torch.float64)

    def slope(network, x, y):
        return 0.0, hessian * network.weight.detach().flatten()

    monkeypatch.setattr(module, "slope", slope)
    g = hessian * start.flatten()
    found = module._change(model, torch.empty(0), torch.empty(0), g, 0.1)
    assert float(found[0]) == pytest.approx(float((0.1 * hessian * g).norm()))
    assert float(found[1]) == pytest.approx(float((hessian * g).norm() / g.norm()))
    assert torch.equal(model.weight.detach(), start)
