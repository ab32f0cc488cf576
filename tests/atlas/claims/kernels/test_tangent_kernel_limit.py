"""The tangent kernel and its limit: gates, the kernel against the Jacobian, and kernel gradient descent in closed form."""

import pytest
import torch

from torchstone.atlas.claims.kernels import tangent_kernel_limit
from torchstone.atlas.conformance import ClaimConformance


class TestTangentKernelLimit(ClaimConformance):
    id = "tangent_kernel_limit"

    def test_the_exponent_is_minus_one_half(self):
        found = self.measured("exponent of the distance to the limit in the width")
        assert found == pytest.approx(-0.5, abs=0.1)

    def test_training_follows_the_kernel(self):
        name = "largest distance of outputs from the kernel's prediction in training, width 1024"
        assert 0 < self.measured(name) < 0.03

    def test_the_limit_is_positive_semidefinite(self):
        assert self.measured("smallest eigenvalue of the limit over the largest") > -1e-8


def generator():
    return torch.Generator().manual_seed(0)


def test_the_kernel_is_that_of_the_jacobian():
    model = tangent_kernel_limit.Dense(7, True, generator())
    x = torch.randn(4, tangent_kernel_limit.INPUTS, generator=generator(), dtype=torch.float64)
    rows = [
        torch.cat(
            [
                part.reshape(-1)
                for part in torch.autograd.grad(one, list(model.parameters()), retain_graph=True)
            ]
        )
        for one in model(x)
    ]
    expected = torch.stack(rows) @ torch.stack(rows).T
    torch.testing.assert_close(tangent_kernel_limit.kernel_of(model, x), expected, rtol=1e-12, atol=1e-12)


def test_predictions_are_those_of_the_closed_form():
    made = tangent_kernel_limit
    model = made.Dense(30, True, generator())
    x = torch.randn(made.TRAIN + made.TEST, made.INPUTS, generator=generator(), dtype=torch.float64)
    y = torch.ones(made.TRAIN, dtype=torch.float64)
    theta, start = made.kernel_of(model, x), model(x).detach()
    own = theta[: made.TRAIN, : made.TRAIN]
    rate = 1.0 / float(torch.linalg.eigvalsh(own)[-1])
    path = made.trajectory(model, x, y)
    eye = torch.eye(made.TRAIN, dtype=torch.float64)
    for step in (0, 1, 50):
        shrunk = torch.linalg.matrix_power(eye - rate * own, step)
        learned = torch.linalg.solve(own, (eye - shrunk) @ (y - start[: made.TRAIN]))
        torch.testing.assert_close(
            path.kernel[step], start + theta[:, : made.TRAIN] @ learned, rtol=1e-8, atol=1e-8
        )
    torch.testing.assert_close(path.network[0], start)


def test_slopes_are_those_of_powers():
    widths = (10, 100, 1000)
    distances = torch.tensor([[width**-0.7 for width in widths]], dtype=torch.float64)
    assert tangent_kernel_limit.fitted_slopes(widths, distances).tolist() == pytest.approx([-0.7])
