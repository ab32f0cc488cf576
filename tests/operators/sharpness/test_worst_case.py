"""Worst rises in balls: quadratics with known answers, invariance, and a model that stays as it was."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone.errors import SettingError
from torchstone.objectives import Classification
from torchstone.operators.sharpness import (
    RiskAround,
    average_sharpness,
    ball_sharpness,
    ball_sharpness_curve,
    keskar_sharpness,
)
from torchstone.specimen import Specimen
from torchstone.testing.conformance import model_state, same_state


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


VALUES = torch.tensor([5.0, 4.8, 3.0, 1.0, 0.5, 0.1, 0.0, 0.0], dtype=torch.float64)


@pytest.mark.parametrize("rotated", [False, True])
def test_on_a_bowl_it_is_half_the_squared_radius_times_the_largest_eigenvalue(
    bowl: Any, symmetric: Any, rotated: bool
) -> None:
    hessian = symmetric(VALUES) if rotated else torch.diag(VALUES)
    rho = 0.05
    found = ball_sharpness(bowl(hessian), rho, evaluations=150, restarts=2, generator=seeded())
    assert found.rise == pytest.approx(rho**2 * 5.0 / 2, rel=1e-4)
    assert found.one_step == 0.0  # the gradient at a minimum says nothing


def test_the_top_eigenvector_as_a_direction_is_enough(bowl: Any, symmetric: Any) -> None:
    hessian = symmetric(VALUES)
    top = torch.linalg.eigh(hessian).eigenvectors[:, -1]
    found = ball_sharpness(
        bowl(hessian), 0.05, evaluations=3, restarts=0, directions=[top], generator=seeded()
    )
    assert found.rise == pytest.approx(0.05**2 * 5.0 / 2, rel=1e-9)
    assert found.gap == pytest.approx(0.0, abs=1e-9)


def test_adaptive_sharpness_of_a_bowl_is_the_top_of_the_scaled_hessian(bowl: Any, symmetric: Any) -> None:
    """max b'u + u'|T| H |T| u / 2 with b = |T| (H theta + slope) = 0 at a chosen minimum that is not 0."""
    hessian = symmetric(VALUES + 0.1)
    at = torch.tensor([1.0, -2.0, 0.0, 3.0, -0.5, 0.2, 1.5, -1.0], dtype=torch.float64)
    around = bowl(hessian, at, -hessian @ at)
    scaled = at.abs()[:, None] * hessian * at.abs()
    found = ball_sharpness(around, 0.3, adaptive=True, evaluations=200, generator=seeded())
    assert found.rise == pytest.approx(0.3**2 / 2 * float(torch.linalg.eigvalsh(scaled)[-1]), rel=1e-4)
    assert float(found.change[2]) == 0.0


def test_one_step_is_that_of_sam(bowl: Any, symmetric: Any) -> None:
    hessian, at = symmetric(VALUES), torch.ones(8, dtype=torch.float64)
    gradient = hessian @ at
    moved = at + 0.1 * gradient / gradient.norm()
    found = ball_sharpness(bowl(hessian, at), 0.1, generator=seeded())
    assert found.one_step == pytest.approx(float(moved @ hessian @ moved - at @ hessian @ at) / 2, rel=1e-12)
    assert found.rise >= found.one_step


def test_it_is_not_negative_at_a_maximum(bowl: Any) -> None:
    found = ball_sharpness(bowl(-torch.eye(4, dtype=torch.float64)), 0.1, generator=seeded())
    assert found.rise == 0.0
    assert float(found.change.norm()) == 0.0


@pytest.mark.parametrize("adaptive", [False, True])
def test_the_curve_never_falls_and_agrees_with_single_radii(network: Any, adaptive: bool) -> None:
    around = RiskAround(network())
    radii = (0.05, 0.1, 0.2, 0.4)
    curve = ball_sharpness_curve(
        around, radii, adaptive=adaptive, evaluations=40, restarts=2, generator=seeded()
    )
    rises = [one.rise for one in curve]
    assert rises == sorted(rises)
    single = ball_sharpness(around, 0.4, adaptive=adaptive, evaluations=80, restarts=8, generator=seeded(1))
    assert curve[-1].rise == pytest.approx(single.rise, rel=1e-3)
    for one in curve:
        assert around.rise(one.change) == pytest.approx(one.rise, rel=1e-12)


def test_radii_must_increase(bowl: Any) -> None:
    with pytest.raises(SettingError, match="Radii must increase"):
        ball_sharpness_curve(bowl(torch.eye(2)), (0.2, 0.1), generator=seeded())


@pytest.fixture(scope="session")
def network() -> Callable[..., Specimen]:
    """A ReLU network on random data, its first layer multiplied and its last one divided by `alpha`."""

    def make(alpha: float = 1.0) -> Specimen:
        x = torch.randn(40, 5, generator=seeded(1), dtype=torch.float64)
        first, last = nn.Linear(5, 8).double(), nn.Linear(8, 3, bias=False).double()
        model = nn.Sequential(first, nn.ReLU(), last)
        generator = seeded(2)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
            first.weight.mul_(alpha)
            first.bias.mul_(alpha)
            last.weight.div_(alpha)
        return Specimen(model, Classification(), (x, x[:, :3].argmax(1)), batch_size=16)

    return make


def test_rescaling_layers_moves_plain_sharpness_and_leaves_the_adaptive_one(network: Any) -> None:
    def measured(alpha: float, adaptive: bool) -> float:
        around = RiskAround(network(alpha))
        return ball_sharpness(around, 0.1, adaptive=adaptive, evaluations=25, generator=seeded()).rise

    assert measured(0.1, True) == pytest.approx(measured(1.0, True), rel=1e-6)
    assert measured(0.03, False) > 3 * measured(1.0, False)


def test_rises_are_those_of_a_copy_with_moved_weights(network: Any) -> None:
    specimen = network()
    around = RiskAround(specimen)
    change = 0.1 * torch.randn(len(around.here), generator=seeded(5), dtype=torch.float64)
    moved = copy.deepcopy(specimen.model)
    torch.nn.utils.vector_to_parameters(around.here + change, moved.parameters())
    x, y = specimen.split("train").source
    losses = nn.functional.cross_entropy(moved(x), y, reduction="none")
    rise, gradient = around.rise_and_gradient(change)
    assert rise == pytest.approx(float(losses.detach().mean()) - around.risk, rel=1e-12)
    assert around.rise(change) == rise
    torch.testing.assert_close(around.rises(change), losses.detach() - around.example_losses)
    losses.mean().backward()
    expected = torch.cat([p.grad.flatten() for p in moved.parameters() if p.grad is not None])
    torch.testing.assert_close(gradient, expected)


class Interrupting(nn.Module):
    """Raises KeyboardInterrupt at its n-th call."""

    def __init__(self, call: int) -> None:
        super().__init__()
        self.layer, self.left = nn.Linear(5, 3), call

    def forward(self, x: Tensor) -> Tensor:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return self.layer(x)


@pytest.mark.parametrize("call", [1, 2, 5, 9])
@pytest.mark.parametrize(
    "sharpness",
    [
        lambda around: ball_sharpness(around, 0.1, adaptive=True, generator=seeded()),
        lambda around: keskar_sharpness(around, generator=seeded()),
        lambda around: average_sharpness(around, (0.1,), generator=seeded()),
    ],
)
def test_an_interrupted_measurement_leaves_the_model_as_it_was(call: int, sharpness: Any) -> None:
    x = torch.randn(12, 5, generator=seeded(1))
    model = Interrupting(call)
    model.layer.weight.grad = torch.ones(3, 5)
    before = model_state(model)
    specimen = Specimen(model, Classification(), (x, x[:, :3].argmax(1)), batch_size=6)
    with pytest.raises(KeyboardInterrupt):
        sharpness(RiskAround(specimen))
    after = model_state(model)
    # The type checker of the tests draws from Python's own generator, to pick the items that it looks at.
    after = dataclasses.replace(after, random=(after.random[0], *before.random[1:]))
    assert same_state(before, after)


def test_half_precision_says_what_rounding_does_to_small_changes() -> None:
    x = torch.randn(12, 5, generator=seeded(1))
    model = nn.Linear(5, 3).bfloat16()
    around = RiskAround(Specimen(model, Classification(), (x, x[:, :3].argmax(1))))
    change = 1e-3 * around.here
    assert around.rounding(change) > 0.5
    assert around.rounding(100 * change) < 0.1
