"""Vanishing and exploding gradients over layers and over time."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchstone.errors import SettingError
from torchstone.init.mean_field import fixed_point, gradient_factor
from torchstone.instruments.measurement import measure
from torchstone.instruments.trainability.gradient_flow import GradientFlow, Profile, judge
from torchstone.objectives import Classification, Regression
from torchstone.reading import Level, Reading
from torchstone.specimen import Specimen
from torchstone.specimens.networks import residual_mlp
from torchstone.workbench import Workbench
from torchstone.workbench.signals import backward_signals


def data(count: int = 64, width: int = 64) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, width, generator=torch.Generator().manual_seed(0))
    return x, x[:, :10].argmax(1)


def flow(model: nn.Module) -> Reading:
    return measure(GradientFlow(), Workbench.on(Specimen(model, Classification(), data())))


def thirty_layers(skip: bool = True, scale: float = 1.0) -> nn.Module:
    model = residual_mlp(15, 64, skip, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
    return model


def plain(scale: float = 1.0) -> nn.Module:
    """Thirty layers without skips, He initialised times `scale`."""
    generator = torch.Generator().manual_seed(2)
    layers: list[nn.Module] = []
    for _ in range(30):
        layers += [nn.Linear(64, 64), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(64, 10))
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.Linear):
                layer.weight.copy_(
                    torch.randn(layer.weight.shape, generator=generator) * scale * math.sqrt(2 / 64)
                )
                layer.bias.zero_()
    return model


def test_a_well_initialised_residual_network_is_good() -> None:
    assert flow(thirty_layers()).verdict.level is Level.GOOD


@pytest.mark.parametrize(("scale", "word"), [(10.0, "larger"), (0.1, "smaller")])
def test_a_broken_initialisation_is_poor(scale: float, word: str) -> None:
    reading = flow(plain(scale))
    assert reading.verdict.level is Level.POOR
    assert word in reading.headline
    # 30 layers, each changing the squared norm by scale^2: 60 log(10) depth scales, up to what ReLU layers fluctuate.
    assert abs(reading.value or 0) == pytest.approx(60 * math.log(10), rel=0.15)


def test_removing_the_residual_connections_of_a_thirty_layer_net_moves_the_verdict() -> None:
    """PyTorch's default initialisation (variance 1/(3 fan_in)) shrinks the signal without skips, not with them."""

    class Net(nn.Module):
        def __init__(self, skip: bool) -> None:
            super().__init__()
            self.skip = skip
            self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(30))
            self.head = nn.Linear(64, 10)
            generator = torch.Generator().manual_seed(3)
            with torch.no_grad():
                for parameter in self.parameters():
                    parameter.copy_((2 * torch.rand(parameter.shape, generator=generator) - 1) / 8)
                if skip:  # the usual scaling of residual branches by depth
                    for layer in self.layers:
                        layer.weight.mul_(30**-0.5)  # pyright: ignore[reportCallIssue]

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = x + torch.relu(layer(x)) if self.skip else torch.relu(layer(x))
            return self.head(x)

    assert flow(Net(skip=True)).verdict.level is Level.GOOD
    removed = flow(Net(skip=False))
    assert removed.verdict.level is Level.POOR
    assert "vanish" in removed.verdict.reason


def test_a_random_tanh_network_decays_as_mean_field_theory_says() -> None:
    """Fitted slope over 40 layers of width 600 against log chi, within 5%, averaged over 4 draws."""
    width, weight_variance, bias_variance = 600, 1.2, 0.3
    q = fixed_point(torch.tanh, weight_variance, bias_variance)
    expected = math.log(gradient_factor(torch.tanh, q, weight_variance))
    slopes = []
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        layers: list[nn.Module] = []
        for _ in range(40):
            layers += [nn.Linear(width, width), nn.Tanh()]
        model = nn.Sequential(*layers, nn.Linear(width, 1))
        with torch.no_grad():
            for layer in model.modules():
                if isinstance(layer, nn.Linear):
                    layer.weight.copy_(
                        torch.randn(layer.weight.shape, generator=generator)
                        * (weight_variance / width) ** 0.5
                    )
                    layer.bias.copy_(torch.randn(layer.bias.shape, generator=generator) * bias_variance**0.5)
        x = math.sqrt(q) * torch.randn(8, width, generator=generator)
        squared = backward_signals(Specimen(model, Regression(), (x, torch.ones(8, 1))), 8).layers
        profile = Profile.of(list(squared)[:40], torch.stack(list(squared.values())[:40], dim=1))
        assert profile is not None
        slopes.append(profile.change / 39)
    assert sum(slopes) / 4 == pytest.approx(expected, rel=0.05)


def test_signals_against_plain_autograd_also_past_in_place_activations() -> None:
    for activation in (nn.ReLU(), nn.ReLU(inplace=True)):
        model = nn.Sequential(nn.Linear(64, 20), activation, nn.Linear(20, 10))
        generator = torch.Generator().manual_seed(4)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 5)
        x, y = data(9)
        found = backward_signals(Specimen(model, Classification(), (x, y), batch_size=4), 9).layers
        z = F.linear(x, model[0].weight, model[0].bias).detach().requires_grad_(True)  # pyright: ignore[reportArgumentType]
        scores = model[2](torch.relu(z))
        expected = torch.autograd.grad(F.cross_entropy(scores, y, reduction="sum"), z)[0].square().sum(1)
        assert torch.allclose(found["0"], expected.double(), rtol=1e-5)
        assert list(found) == ["0", "2"]


def test_a_recurrent_network_that_forgets_is_found_through_its_time_steps() -> None:
    class Forgetful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(4, 8, batch_first=True), nn.Linear(8, 3)
            gates: Any = self.lstm.bias_ih_l0
            generator = torch.Generator().manual_seed(5)
            with torch.no_grad():
                for parameter in self.parameters():
                    parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
                gates[8:16] = -1.0  # closes the forget gate

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.lstm(x)[0][:, -1])

    x = torch.randn(40, 100, 4, generator=torch.Generator().manual_seed(6))
    reading = measure(
        GradientFlow(), Workbench.on(Specimen(Forgetful(), Classification(), (x, x[:, -1, :3].argmax(1))))
    )
    assert reading.verdict.level is Level.POOR
    assert "100 time steps of lstm" in reading.headline
    assert (reading.value or 0) < -50


def test_the_error_bar_is_that_of_the_mean_over_examples() -> None:
    squared = torch.exp(torch.randn(50, 6, generator=torch.Generator().manual_seed(7), dtype=torch.float64))
    profile = Profile.of(list("abcdef"), squared)
    assert profile is not None
    import numpy as np

    slopes = np.polyfit(np.arange(6), squared.log().numpy().T, 1)[0]
    assert profile.change == pytest.approx(-5 * slopes.mean())
    assert profile.standard_error == pytest.approx(5 * slopes.std(ddof=1) / math.sqrt(50))


def test_examples_without_a_gradient_are_left_out_and_said() -> None:
    squared = torch.ones(4, 3)
    squared[0] = 0
    profile = Profile.of(["a", "b", "c"], squared)
    assert profile is not None
    assert profile.zero == 0.25
    assert Profile.of(["a"], torch.ones(4, 1)) is None
    assert Profile.of(["a", "b"], torch.zeros(4, 2)) is None


def test_judgement() -> None:
    assert judge(2.9).level is judge(-2.9).level is Level.GOOD
    assert judge(3.1).level is judge(-3.1).level is Level.ATTENTION
    assert judge(6.1).level is judge(-6.1).level is Level.POOR
    assert judge(float("nan")).level is Level.POOR
    assert "vanish" in judge(-7).reason
    assert "explode" in judge(7).reason


def test_bad_settings_are_named() -> None:
    with pytest.raises(SettingError, match=r"gradient_flow\.examples"):
        GradientFlow(examples=1)
