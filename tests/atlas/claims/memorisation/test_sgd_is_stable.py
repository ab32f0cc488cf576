"""Stability of SGD on convex losses: the gates with numbers of their own, and the runs against autograd."""

import pytest
import torch

from torchstone.atlas.claims.memorisation import sgd_is_stable as module
from torchstone.atlas.conformance import ClaimConformance


class TestSgdIsStable(ClaimConformance):
    id = "sgd_is_stable"

    def test_no_violation_at_any_step_of_a_hundred_runs(self):
        assert module.RUNS == 100
        assert self.measured("violations in every run of SGD, at every step") == 0
        assert self.measured("violations in every full-batch run, at every step") == 0

    def test_gap_equals_stability_within_three_errors(self):
        [check] = [c for c in self.result.evidence.checks if c.name == "expected gap less expected stability"]
        assert check.standard_error is not None
        assert abs(check.measured) < 3 * check.standard_error
        assert check.standard_error < 0.05 * abs(self.gap())

    def test_without_convexity_twins_leave_the_bounds(self):
        evidence = module.counterexample(self.result.scale, torch.Generator().manual_seed(0))
        assert "violations in every run of SGD, at every step" in {check.name for check in evidence.refuted}

    def gap(self) -> float:
        gaps, _ = module.gap_and_stability(500, torch.Generator().manual_seed(9), module.logistic)
        return float(gaps.mean())

    def test_the_bound_on_the_mean_is_not_one_on_every_run(self):
        assert self.measured("one run over the bound on the mean, largest over runs and steps") > 1


@pytest.mark.parametrize("full_batch", [False, True])
@pytest.mark.parametrize(("slope", "loss"), [
    (module.logistic, lambda margin: torch.nn.functional.softplus(-margin)),
    (module.waves, lambda margin: -torch.sin(margin)),
])  # fmt: skip
def test_steps_are_those_of_autograd(slope, loss, full_batch):
    generator = torch.Generator().manual_seed(0)
    samples = module.draw(2, 6, generator)
    draws = None if full_batch else torch.randint(6, (2, 5), generator=generator)
    path = module.descend(samples.x, samples.y, draws, slope, decay=0.1)
    for r in range(2):
        w = torch.zeros(module.INPUTS, dtype=torch.float64, requires_grad=True)
        for t in range(5):
            some = slice(None) if draws is None else draws[r, t : t + 1]
            x, y = samples.x[r][some], samples.y[r][some]
            risk = loss(y * (x @ w)).mean() + 0.05 * w.square().sum()
            [gradient] = torch.autograd.grad(risk, w)
            w = (w - module.RATE * gradient).detach().requires_grad_()
            assert torch.allclose(path[r, t], w, atol=1e-13)


def test_twins_differ_in_example_0_alone():
    samples = module.draw(3, 7, torch.Generator().manual_seed(1))
    assert torch.equal(samples.x[:, 1:], samples.twin_x[:, 1:])
    assert not (samples.x[:, 0] == samples.twin_x[:, 0]).any()
    assert torch.allclose(samples.x.norm(dim=-1), torch.ones(3, 7, dtype=torch.float64))
