"""Dead and saturated units, and the drift of the signal."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchstone.details import Curve, Table
from torchstone.errors import SettingError
from torchstone.instruments.measurement import measure
from torchstone.instruments.trainability.activation_health import ActivationHealth, judge, signal_drift
from torchstone.objectives import Classification
from torchstone.reading import Level, Reading
from torchstone.specimen import Specimen
from torchstone.workbench import Workbench


def data(count: int = 200) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, 20, generator=torch.Generator().manual_seed(0))
    return x, x[:, :3].argmax(1)


def dense(*activations: nn.Module) -> nn.Sequential:
    layers: list[nn.Module] = []
    for activation in activations:
        layers += [nn.Linear(20, 20), activation]
    model = nn.Sequential(*layers, nn.Linear(20, 3))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.Linear):
                layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * (2 / 20) ** 0.5)
                layer.bias.zero_()
    return model


def health(model: nn.Module, batch_size: int = 64) -> Reading:
    specimen = Specimen(model, Classification(), data(), batch_size=batch_size)
    return measure(ActivationHealth(), Workbench.on(specimen))


def table(reading: Reading) -> dict[str, tuple[float, float | None]]:
    found = next(detail for detail in reading.details if isinstance(detail, Table))
    return {
        str(row[0]): (float(row[2] or 0), None if row[3] is None else float(row[3])) for row in found.rows
    }


def test_a_healthy_network_is_good() -> None:
    reading = health(dense(nn.ReLU(), nn.ReLU()))
    assert reading.value == 0
    assert reading.verdict.level is Level.GOOD


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU(inplace=True)])
@pytest.mark.parametrize("batch_size", [7, 500])
def test_dead_units_are_counted(activation: nn.Module, batch_size: int) -> None:
    model = dense(activation, nn.ReLU())
    with torch.no_grad():
        model[0].bias[:12] = -100.0  # pyright: ignore[reportIndexIssue, reportArgumentType]
    reading = health(model, batch_size)
    shares = list(table(reading).values())
    assert shares[0][0] == pytest.approx(12 / 20)
    assert reading.value == pytest.approx((12 + 20 * shares[1][0]) / 40)
    assert reading.verdict.level is Level.POOR


class Functional(nn.Module):
    """Activations as functions, on maps and on vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.layer, self.head = nn.Conv1d(1, 4, 3), nn.Linear(72, 10), nn.Linear(10, 3)
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
            self.convolution.bias[1] = -100.0  # pyright: ignore[reportOptionalSubscript]

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.convolution(x[:, None, :]))
        return self.head(torch.tanh(100 * self.layer(hidden.flatten(1))))


def test_functional_activations_count_and_a_channel_is_a_unit() -> None:
    found = table(health(Functional()))
    assert found["model (relu)"] == (0.25, None)
    assert found["model (tanh)"][1] is not None
    assert found["model (tanh)"][1] > 0.9


def test_saturation_is_the_share_near_a_bound() -> None:
    model = dense(nn.Tanh())
    with torch.no_grad():
        model[0].weight.mul_(100)  # pyright: ignore[reportCallIssue]
    reading = health(model)
    x = data()[0]
    z = torch.tanh(F.linear(x, model[0].weight, model[0].bias))  # pyright: ignore[reportArgumentType]
    expected = float((z.abs() > 0.98).double().mean())  # within 1% of the range of 2
    assert next(iter(table(reading).values()))[1] == pytest.approx(expected)
    assert reading.verdict.level is Level.POOR


@pytest.mark.parametrize(("scale", "sign"), [(10.0, 1), (0.1, -1)])
def test_a_broken_initialisation_drifts(scale: float, sign: int) -> None:
    model = dense(*[nn.ReLU()] * 10)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(scale)
    reading = health(model)
    assert reading.verdict.level is Level.POOR
    assert f"e^{'-' if sign < 0 else ''}" in reading.verdict.reason


def test_the_drift_is_a_fitted_slope_without_the_data() -> None:
    assert signal_drift([1e9, 1.0, math.e, math.e**2]) == pytest.approx(2)
    assert signal_drift([1e9, 1.0, 0.0, math.e**2]) == pytest.approx(2)  # a branch that starts at zero
    assert signal_drift([1.0, 5.0]) == signal_drift([1.0]) == signal_drift([]) == 0.0
    assert signal_drift([1.0, 3.0, 0.0]) == -math.inf  # nothing arrives
    assert signal_drift([1.0, 3.0, math.inf, math.inf]) == math.inf
    assert signal_drift([1.0, 3.0, math.nan]) == math.inf
    logs = torch.randn(9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    slope = np.polyfit(np.arange(9), logs.numpy(), 1)[0]
    assert signal_drift([7.0, *logs.exp().tolist()]) == pytest.approx(8 * slope)


def test_the_signal_is_the_mean_square_of_what_enters_each_layer() -> None:
    model = dense(nn.ReLU(inplace=True), nn.Tanh())
    curve = next(detail for detail in health(model, 7).details if isinstance(detail, Curve))
    x = data()[0]
    hidden = torch.relu(F.linear(x, model[0].weight))  # pyright: ignore[reportArgumentType]
    last = torch.tanh(F.linear(hidden, model[2].weight))  # pyright: ignore[reportArgumentType]
    squares = [float(one.detach().square().mean()) for one in (x, hidden, last)]
    assert curve.lines[0].y == pytest.approx(squares, rel=1e-5)
    assert curve.ticks == ("0", "2", "4")


def test_a_reused_activation_is_kept_apart() -> None:
    class Reuse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.activation, self.head = nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.activation(self.layer(self.activation(self.layer(x)))))

    assert set(table(health(Reuse()))) == {"activation (relu)", "activation (relu)#2"}


class Blocks(nn.Module):
    """Residual blocks whose last layers start at zero (Zhang, Dauphin & Ma 2019), fifteen of two layers."""

    def __init__(self, skip: bool) -> None:
        super().__init__()
        self.skip = skip
        self.into = nn.ModuleList(nn.Linear(20, 20) for _ in range(15))
        self.back = nn.ModuleList(nn.Linear(20, 20) for _ in range(15))
        self.stem, self.head = nn.Linear(20, 20), nn.Linear(20, 3)
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * (2 / 20) ** 0.5)
            for layer in self.back:
                for parameter in layer.parameters():
                    parameter.zero_()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for into, back in zip(self.into, self.back, strict=True):
            branch = back(F.relu(into(x)))
            x = x + branch if self.skip else branch
        return self.head(x)


def test_branches_that_start_at_zero_are_healthy_and_a_chain_of_them_carries_nothing() -> None:
    assert health(Blocks(skip=True)).verdict.level is Level.GOOD
    reading = health(Blocks(skip=False))
    assert reading.verdict.level is Level.POOR
    assert "no signal reaches the last layer" in reading.verdict.reason
    assert "No signal reaches" in reading.headline or "no signal reaches" in reading.headline


@pytest.mark.parametrize(
    ("activation", "dead", "alive"),
    [
        (F.relu, -0.0, 1e-3), (torch.tanh, 9.0, 5.0), (torch.tanh, -9.0, 0.0), (torch.sigmoid, -20.0, -5.0),
        (F.gelu, -8.0, -3.0), (F.silu, -30.0, -5.0), (F.elu, -20.0, -3.0), (F.softplus, -20.0, -5.0),
        (F.relu6, 7.0, 5.0), (F.hardtanh, -1.5, 0.5), (F.hardswish, -4.0, -2.0), (F.mish, -30.0, -2.0),
        (F.leaky_relu, None, -1e6),
    ],
)  # fmt: skip
def test_dead_is_where_no_gradient_passes(activation: Any, dead: float | None, alive: float) -> None:
    """Units at one constant input: dead exactly where the slope there is below a millionth."""
    inputs = [alive] if dead is None else [alive, dead]

    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.Linear(20, len(inputs)), nn.Linear(len(inputs), 3)
            with torch.no_grad():
                self.layer.weight.zero_()
                self.layer.bias.copy_(torch.tensor(inputs))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(activation(self.layer(x)))

    point = torch.tensor(inputs, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(activation(point).sum(), point)
    assert (slope.abs() < 1e-6).tolist() == [False, True][: len(inputs)]
    assert next(iter(table(health(Constant())).values()))[0] == pytest.approx(
        float((slope.abs() < 1e-6).double().mean())
    )


class Attended(nn.Module):
    """A gate at its upper bound, and a sigmoid layer that is none."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.layer, self.head = nn.Linear(20, 20), nn.Linear(20, 20), nn.Linear(20, 3)
        with torch.no_grad():
            self.gate.bias.fill_(8.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.sigmoid(self.layer(x)) + x * torch.sigmoid(self.gate(x)))


def test_gates_may_rest_at_their_bounds() -> None:
    reading = health(Attended())
    shares = table(reading)
    assert shares["model (sigmoid)#2, a gate"][1] == 1.0
    assert shares["model (sigmoid)"][1] == 0.0
    assert "0% of the time" in reading.headline
    assert reading.verdict.level is Level.GOOD


def test_recurrent_cells_show_their_activations() -> None:
    class Cells(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.RNN(4, 6, batch_first=True), nn.Linear(6, 3)
            with torch.no_grad():
                for parameter in self.rnn.parameters():
                    parameter.fill_(50.0)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(x.reshape(-1, 5, 4))[0][:, -1])

    reading = health(Cells())
    assert len(table(reading)) == 5  # one a step
    assert reading.verdict.level is Level.POOR
    assert "saturated" in reading.verdict.reason


def test_the_network_is_left_as_it_was() -> None:
    model = dense(nn.ReLU(inplace=True))
    before = [parameter.clone() for parameter in model.parameters()]
    health(model)
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_one_layer_without_activations_is_not_asked() -> None:
    reading = health(nn.Linear(20, 3))
    assert reading.verdict.level is Level.NOT_APPLICABLE
    assert "elementwise activations or at least two weight layers" in reading.verdict.reason


def test_judgement() -> None:
    assert judge(0.0, 0.0, 0.0).level is Level.GOOD
    assert judge(0.6, 0.0, 0.0).level is Level.POOR
    assert judge(0.0, 0.3, 0.0).level is Level.ATTENTION
    assert judge(0.0, 0.6, 0.0).level is Level.POOR
    assert judge(0.0, 0.0, -4.0).level is Level.ATTENTION
    assert judge(0.0, 0.0, 7.0).level is Level.POOR
    for drift, words in (
        (float("nan"), "overflows"),
        (math.inf, "overflows"),
        (-math.inf, "no signal reaches"),
    ):
        assert judge(0.0, 0.0, drift).level is Level.POOR
        assert words in judge(0.0, 0.0, drift).reason
    assert judge(0.25, 0.25, 3.0).level is Level.GOOD
    assert judge(0.26, 0.0, 0.0).level is judge(0.0, 0.26, 0.0).level is Level.ATTENTION
    assert judge(0.5, 0.5, 6.0).level is Level.ATTENTION
    for verdict in (judge(0.0, 0.0, 0.0), judge(0.6, 0.0, 0.0)):
        assert "25%" in verdict.threshold
        assert "Schoenholz" in verdict.source


def test_bad_settings_are_named() -> None:
    with pytest.raises(SettingError, match=r"activation_health\.margin"):
        ActivationHealth(margin=0.5)
