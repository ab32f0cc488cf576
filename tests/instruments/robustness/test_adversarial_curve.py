"""Accuracy under attack."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from torchstone.details import Curve, Table
from torchstone.errors import SettingError
from torchstone.instruments.measurement import measure
from torchstone.instruments.robustness.adversarial_curve import RADII, REFERENCE, AdversarialCurve, judge
from torchstone.objectives import CausalLM, Classification
from torchstone.reading import Level, Reading
from torchstone.specimen import Specimen
from torchstone.workbench import Workbench


def gaussians(count: int, seed: int, width: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 2, (count,), generator=generator)
    return torch.randn(count, width, generator=generator) + 1.0 * (2 * y[:, None] - 1), y


def linear(weight: Tensor, scale: float = 1.0) -> nn.Linear:
    layer = nn.Linear(len(weight), 2)
    with torch.no_grad():
        layer.weight.copy_(scale * torch.stack([-weight, weight]))
        layer.bias.zero_()
    return layer


def examine(model: nn.Module, **settings: int) -> Reading:
    specimen = Specimen(model, Classification(), gaussians(300, 0), gaussians(100, 1))
    return measure(AdversarialCurve(**settings), Workbench.on(specimen))


def curves(reading: Reading) -> dict[str, Curve]:
    found = [detail for detail in reading.details if isinstance(detail, Curve)]
    return {"linf": found[0], "l2": found[1]}


def test_on_a_linear_network_the_curve_is_the_exact_distance_to_the_boundary() -> None:
    weight = torch.tensor([1.0, 0.5, 0.25, 2.0, 0.1, 1.0])
    reading = examine(linear(weight))
    train, (x, y) = gaussians(300, 0)[0].double(), gaussians(100, 1)
    scale = float((train - train.mean(0)).square().mean().sqrt())
    signed = (x.double() @ weight.double()) * (2 * y - 1)
    low, high = min(train.min(), x.double().min()), max(train.max(), x.double().max())
    for norm, dual, size in (("linf", weight.abs().sum(), 1.0), ("l2", weight.norm(), 6**0.5)):
        accuracy = curves(reading)[norm].lines[0].y[1:]
        for radius, found in zip(RADII, accuracy, strict=True):
            eps = radius * scale * size
            if norm == "linf":
                moved = x.double() - eps * (2 * y[:, None] - 1) * weight.sign()
                exact = (moved.clamp(low, high) @ weight.double()) * (
                    2 * y - 1
                ) > 0  # the box cuts corners off the ball
                assert found == pytest.approx(float(exact.double().mean()), abs=1e-9)
            else:  # without the box the distance is exact; the box can only help the network
                held = float((signed / dual.double() > eps).double().mean())
                assert held - 1e-9 <= found <= held + 0.05


def test_curves_fall_and_the_strongest_attack_is_the_lowest() -> None:
    generator = torch.Generator().manual_seed(3)
    model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    for curve in curves(examine(model)).values():
        strongest = curve.lines[0].y
        assert list(strongest) == sorted(strongest, reverse=True)
        for other in curve.lines[1:]:
            assert all(a <= b + 1e-9 for a, b in zip(strongest[1:], other.y[1:], strict=True))


def flags(reading: Reading) -> set[str]:
    table = next(detail for detail in reading.details if isinstance(detail, Table))
    assert len(table.rows) == 5
    return {str(row[0]) for row in table.rows if row[1] == "yes"}


def test_an_honest_network_raises_no_flag() -> None:
    assert flags(examine(linear(torch.ones(6)))) == set()


def test_probabilities_are_flagged() -> None:
    assert "probabilities" in flags(examine(nn.Sequential(linear(torch.ones(6)), nn.Softmax(1))))


class Rounded(nn.Module):
    """Rounds its input, so that no gradient comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = linear(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer((x * 2).round() / 2 + 0 * x)


class Optimising(nn.Module):
    """Takes a gradient while it predicts."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = linear(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            cleaned = x.detach().requires_grad_(True)
            step = torch.autograd.grad(self.layer(cleaned).square().sum(), cleaned)[0]
        return self.layer(x - 0.01 * step)


def test_masked_gradients_and_optimisation_are_flagged() -> None:
    rounded = examine(Rounded())
    assert "zero gradients" in flags(rounded)
    assert rounded.verdict.level in (Level.ATTENTION, Level.POOR)
    assert "dynamic" in flags(examine(Optimising()))


def test_saturated_scores_do_not_hide_the_boundary() -> None:
    """Scores of 1e4 make the loss exactly 0 in float32; noise still breaks what the gradient cannot see."""
    reading = examine(linear(torch.ones(6), scale=1e4))
    assert "zero gradients" in flags(reading)
    assert reading.verdict.level is not Level.GOOD


def test_judgement() -> None:
    assert judge(0.95, 1.0, []).level is Level.GOOD
    assert judge(0.89, 1.0, []).level is Level.ATTENTION
    assert judge(0.49, 1.0, []).level is Level.POOR
    assert judge(0.95, 1.0, ["The model is random."]).level is Level.ATTENTION
    assert judge(0.0, 0.0, []).level is Level.GOOD
    assert REFERENCE in RADII


def test_token_inputs_cannot_be_attacked() -> None:
    class Constant(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            return torch.zeros(*tokens.shape, 9)

    tokens = torch.randint(0, 9, (20, 5), generator=torch.Generator().manual_seed(0))
    reading = measure(AdversarialCurve(), Workbench.on(Specimen(Constant(), CausalLM(), tokens)))
    assert reading.verdict.level is Level.NOT_APPLICABLE
    assert reading.cost.seconds == 0


@pytest.mark.parametrize("setting", ["examples", "steps", "restarts"])
def test_bad_settings_are_named(setting: str) -> None:
    with pytest.raises(SettingError, match=f"adversarial_curve.{setting}"):
        AdversarialCurve(**{setting: 0})
