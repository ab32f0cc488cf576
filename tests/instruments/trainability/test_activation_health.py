"""Dead and saturated units, and the drift of the signal."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchstone.details import Table
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
        hidden = F.relu(self.convolution(x[:, None, :]).unsqueeze(-1))
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


def test_the_drift_is_a_fitted_slope_without_the_last_layer() -> None:
    import math

    assert signal_drift([1.0, math.e, math.e**2, 1e9]) == pytest.approx(2)
    assert signal_drift([1.0, 5.0]) == 0.0
    assert signal_drift([1.0, 0.0, 1.0]) == -math.inf


def test_a_reused_activation_is_kept_apart() -> None:
    class Reuse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.activation, self.head = nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.activation(self.layer(self.activation(self.layer(x)))))

    assert set(table(health(Reuse()))) == {"activation (relu)", "activation (relu)#2"}


def test_judgement() -> None:
    assert judge(0.0, 0.0, 0.0).level is Level.GOOD
    assert judge(0.6, 0.0, 0.0).level is Level.POOR
    assert judge(0.0, 0.3, 0.0).level is Level.ATTENTION
    assert judge(0.0, 0.6, 0.0).level is Level.POOR
    assert judge(0.0, 0.0, -4.0).level is Level.ATTENTION
    assert judge(0.0, 0.0, 7.0).level is Level.POOR
    assert judge(0.0, 0.0, float("nan")).level is Level.POOR


def test_bad_settings_are_named() -> None:
    with pytest.raises(SettingError, match=r"activation_health\.margin"):
        ActivationHealth(margin=0.5)
