"""The largest stable learning rate: gates, and the iteration against torch.optim.SGD and its exact powers."""

import pytest
import torch

from torchstone.atlas.claims.optimisation import stability_limit
from torchstone.atlas.conformance import ClaimConformance


class TestStabilityLimit(ClaimConformance):
    id = "stability_limit"

    def test_below_at_and_beyond_twice_the_optimal_rate(self):
        assert self.measured("|x_t / x_0| at eta = 2 eta_opt (1 - 0.001)") < 1e-6
        assert self.measured("largest change of |x_t| over 1000 steps at eta = 2 eta_opt") <= 1e-12
        assert self.measured("|x_t / x_0| at eta = 2 eta_opt (1 + 0.001)") > 1e6


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9])
def test_the_iteration_is_that_of_torch_sgd(beta):
    rates = [0.1, 0.6, 1.1]
    path = stability_limit.descend(stability_limit.quadratic, rates, [beta] * 3, 50)
    for i, rate in enumerate(rates):
        x = torch.ones((), dtype=torch.float64, requires_grad=True)
        optimiser = torch.optim.SGD([x], lr=rate, momentum=beta)
        for step in range(50):
            optimiser.zero_grad()
            stability_limit.quadratic(x).backward()
            optimiser.step()
            assert float(x.detach()) == pytest.approx(float(path[step + 1, i]), rel=1e-12)


def test_without_momentum_a_step_multiplies_by_one_minus_eta_lambda():
    path = stability_limit.descend(stability_limit.quadratic, [0.5], [0.0], 20)[:, 0]
    assert torch.allclose(path, (1 - 0.5 * 3.0) ** torch.arange(21, dtype=torch.float64), rtol=1e-12)


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9])
def test_the_multiplier_is_the_spectral_radius_of_the_companion_matrix(beta):
    for scaled in (0.3, 1.9, 2 * (1 + beta), 4.1):
        companion = torch.tensor([[1 + beta - scaled, -beta], [1.0, 0.0]], dtype=torch.float64)
        radius = float(torch.linalg.eigvals(companion).abs().max())
        assert stability_limit.multiplier(scaled, beta) == pytest.approx(radius, abs=1e-7)
    assert stability_limit.multiplier(2 * (1 + beta) * 0.999, beta) < 1
    assert stability_limit.multiplier(2 * (1 + beta), beta) == pytest.approx(1, abs=1e-12)
    assert stability_limit.multiplier(2 * (1 + beta) * 1.001, beta) > 1
