"""Vanishing and exploding gradients over layers and over time."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchstone.errors import SettingError
from torchstone.instruments.measurement import measure
from torchstone.instruments.trainability.gradient_flow import GradientFlow, Profile, judge
from torchstone.objectives import Classification
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


class Blocks(nn.Module):
    """Fifteen blocks of two layers, whose last layers start at zero (Zhang, Dauphin & Ma 2019)."""

    def __init__(self, skip: bool) -> None:
        super().__init__()
        self.skip = skip
        self.into = nn.ModuleList(nn.Linear(64, 64) for _ in range(15))
        self.back = nn.ModuleList(nn.Linear(64, 64) for _ in range(15))
        self.stem, self.head = nn.Linear(64, 64), nn.Linear(64, 10)
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * (2 / 64) ** 0.5)
            for layer in self.back:
                for parameter in layer.parameters():
                    parameter.zero_()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for into, back in zip(self.into, self.back, strict=True):
            branch = back(F.relu(into(x)))
            x = x + branch if self.skip else branch
        return self.head(x)


def test_branches_that_start_at_zero_are_healthy_until_their_skips_are_removed() -> None:
    healthy = flow(Blocks(skip=True))
    assert healthy.verdict.level is Level.GOOD
    assert any("branches that start at zero" in note for note in healthy.notes)
    removed = flow(Blocks(skip=False))
    assert removed.value == -math.inf
    assert removed.verdict.level is Level.POOR
    assert removed.uncertainty is None
    assert "no gradient at all reaches" in removed.headline


def test_a_dead_layer_lets_no_gradient_through() -> None:
    model: Any = plain()
    with torch.no_grad():
        for layer in model[22::2]:
            layer.bias.fill_(0.1)
        model[20].bias.fill_(-1000.0)
    reading = flow(model)
    assert reading.verdict.level is Level.POOR
    assert "the first that gets any is 22" in reading.headline


def test_gradients_below_the_range_of_the_type_have_vanished() -> None:
    reading = flow(plain(1e-3))
    assert reading.value == -math.inf
    assert reading.verdict.level is Level.POOR


def test_a_sample_is_drawn_from_all_of_the_data() -> None:
    """The data are sorted: their first rows are not like the rest."""
    x, y = data(200)
    x[:100] *= 1e-3
    bench = Workbench.on(Specimen(plain(), Classification(), (x, y)))
    reading = measure(GradientFlow(examples=20), bench)
    rows = bench.sample("train", 20, "gradient_flow")
    assert 0 < int((rows < 100).sum()) < 20
    squared = backward_signals(Specimen(plain(), Classification(), (x[rows], y[rows]))).layers
    expected = Profile.of(list(squared), torch.stack(list(squared.values()), dim=1))
    assert expected is not None
    assert reading.value == pytest.approx(expected.change, rel=1e-6)
    assert "Gradients of 20 training examples." in reading.notes
    assert measure(GradientFlow(examples=20), bench).without_cost() == reading.without_cost()


class Styles(nn.Module):
    """The same network with modules, in-place modules and functions."""

    def __init__(self, style: str) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(5))
        self.head, self.style = nn.Linear(64, 10), style
        self.activation = nn.ReLU(inplace=style == "in place")
        generator = torch.Generator().manual_seed(10)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 8)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
            x = F.relu(x) if self.style == "function" else self.activation(x)
        return self.head(x)


def test_the_style_of_the_activation_does_not_matter() -> None:
    readings = [flow(Styles(style)) for style in ("module", "in place", "function")]
    assert readings[0].value == readings[1].value == readings[2].value
    assert readings[0].details == readings[1].details == readings[2].details


def test_remedies_fit_where_the_gradient_is_lost() -> None:
    blocks = lambda reading: [remedy.block for remedy in reading.remedies]
    assert "torchstone.init.apply" in blocks(flow(plain(0.1)))
    assert flow(plain(0.1)).remedies[0].trial == "init=orthogonal"
    assert "torch.nn.utils.clip_grad_norm_" in blocks(flow(plain(10.0)))
    assert blocks(flow(plain())) == []


def test_one_layer_has_no_depth() -> None:
    reading = flow(nn.Linear(64, 10))
    assert reading.verdict.level is Level.NOT_APPLICABLE
    assert "at least two layers with weights" in reading.verdict.reason


def test_judgement() -> None:
    assert judge(2.9).level is judge(-2.9).level is Level.GOOD
    assert judge(3.1).level is judge(-3.1).level is Level.ATTENTION
    assert judge(6.1).level is judge(-6.1).level is Level.POOR
    assert judge(float("nan")).level is Level.POOR
    assert "vanish" in judge(-7).reason
    assert "explode" in judge(7).reason
    for change in (0.0, 3.5, -math.inf):
        assert "6 depth scales" in judge(change).threshold
        assert "Schoenholz et al. 2017" in judge(change).source
    assert judge(3.0).level is Level.GOOD
    assert judge(6.0).level is Level.ATTENTION


def test_bad_settings_are_named() -> None:
    with pytest.raises(SettingError, match=r"gradient_flow\.examples"):
        GradientFlow(examples=1)
