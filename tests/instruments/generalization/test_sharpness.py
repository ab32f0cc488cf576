"""The panel of sharpness measures on networks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone.details import Curve, Table
from torchstone.errors import SettingError
from torchstone.instruments.generalization import sharpness as module
from torchstone.instruments.generalization.sharpness import Sharpness, judge
from torchstone.instruments.measurement import measure
from torchstone.objectives import Classification, Regression
from torchstone.operators.sharpness import AverageCase, RiskAround, ball_sharpness
from torchstone.reading import Level, Reading
from torchstone.specimen import Specimen
from torchstone.testing import dense_hessian
from torchstone.workbench import Workbench


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def data(count: int = 60) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, 5, generator=seeded(), dtype=torch.float64)
    return x, x[:, :3].argmax(1)


def network(alpha: float = 1.0, scale: float = 1.0) -> nn.Module:
    """A ReLU network, its first layer multiplied and its last one divided by `alpha`."""
    first, last = nn.Linear(5, 8).double(), nn.Linear(8, 3).double()
    generator = seeded(2)
    with torch.no_grad():
        for parameter in (*first.parameters(), *last.parameters()):
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        first.weight.mul_(alpha)
        first.bias.mul_(alpha)
        last.weight.div_(alpha)
    return nn.Sequential(first, nn.ReLU(), last)


def read(model: nn.Module, **settings: Any) -> Reading:
    return measure(Sharpness(**settings), Workbench.on(Specimen(model, Classification(), data())))


def panel(reading: Reading) -> dict[str, Any]:
    [table] = [detail for detail in reading.details if isinstance(detail, Table)]
    return {str(row[0]): row[1] for row in table.rows}


def test_the_value_is_the_adaptive_worst_case() -> None:
    reading = read(network())
    around = RiskAround(Specimen(network(), Classification(), data()))
    thorough = ball_sharpness(around, 0.5, adaptive=True, evaluations=200, restarts=10, generator=seeded())
    assert reading.value == pytest.approx(thorough.rise, rel=0.01)
    assert reading.value is not None
    assert reading.value <= thorough.rise * (1 + 1e-9)


def test_rescaling_layers_moves_the_plain_measures_only() -> None:
    before, after = (panel(read(network(alpha))) for alpha in (1.0, 0.05))
    kinds = {name: "relative" in name for name in before}
    assert sum(kinds.values()) == 4
    for (name, relative), rescaled in zip(kinds.items(), after.values(), strict=True):
        if relative:
            assert rescaled == pytest.approx(before[name], rel=1e-6), name
        elif "random, plain" not in name:  # its noise follows the weights' size
            assert rescaled != pytest.approx(before[name], rel=0.5), name


def test_the_table_holds_the_largest_eigenvalue() -> None:
    specimen = Specimen(network(), Classification(), data())
    expected = float(torch.linalg.eigvalsh(dense_hessian(specimen))[-1])
    assert panel(read(network()))["largest eigenvalue of the Hessian"] == pytest.approx(expected, rel=0.02)


def test_the_error_bar_is_that_of_paired_examples() -> None:
    reading = read(network())
    bar = reading.uncertainty
    assert bar is not None
    assert bar.covers == "examples"
    assert bar.standard_error is not None
    assert reading.value is not None
    assert bar.low < reading.value < bar.high
    assert 0 < bar.standard_error < reading.value


def test_curves_rise_and_random_changes_do_less_than_the_worst_of_the_same_length() -> None:
    relative, plain = (detail for detail in read(network()).details if isinstance(detail, Curve))
    for curve in (relative, plain):
        worst, *_ = curve.lines
        assert list(worst.y) == sorted(worst.y)
        assert [line.name for line in curve.lines][:2] == ["worst change found", "random change"]
    worst, random = relative.lines
    [alike] = [y for x, y in zip(random.x, random.y, strict=True) if x == pytest.approx(0.5)]
    [most] = [y for x, y in zip(worst.x, worst.y, strict=True) if x == 0.5]
    assert alike < most / 3


def test_a_network_that_noise_of_a_percent_breaks_needs_attention() -> None:
    """Scores are small differences of large numbers, which relative noise does not spare."""
    x, y = data()
    generator = seeded(3)
    right = 3 * torch.eye(3, 5, dtype=torch.float64)
    large = 1000 * torch.randn(3, 5, generator=generator, dtype=torch.float64)
    model = nn.Linear(10, 3).double()
    with torch.no_grad():
        model.weight.copy_(torch.cat([right + large, -large], dim=1))
        model.bias.zero_()
    reading = measure(Sharpness(), Workbench.on(Specimen(model, Classification(), (torch.cat([x, x], 1), y))))
    assert reading.verdict.level is Level.ATTENTION
    assert reading.remedies
    assert read(network()).verdict.level is Level.INFORMATIVE


@pytest.mark.parametrize(
    ("low", "loss", "level"),
    [
        (0.09, 0.0, Level.INFORMATIVE),
        (0.11, 0.0, Level.ATTENTION),
        (0.11, 0.2, Level.INFORMATIVE),
        (0.11, -0.5, Level.ATTENTION),
        (math.nan, 0.0, Level.ATTENTION),
        (math.inf, 0.0, Level.ATTENTION),
    ],
)
def test_judgement(low: float, loss: float, level: Level) -> None:
    verdict = judge(low, low, loss, 0.01)
    assert verdict.level is level
    assert "0.1 (1 + loss)" in verdict.threshold
    assert "Keskar" in verdict.source


def test_the_width_is_interpolated() -> None:
    rises = lambda *values: tuple(
        AverageCase(noise, noise, value, 0.0, 2)
        for noise, value in zip((0.01, 0.1, 1.0), values, strict=True)
    )
    assert module._width(rises(0.0001, 0.01, 1.0), 0.0) == pytest.approx(0.1 * 10**0.5)  # rise = noise^2
    assert module._width(rises(0.5, 1.0, 2.0), 0.0) == "below 0.01"
    assert module._width(rises(0.0, 0.0, 0.01), 0.0) == "above 1"
    assert module._width(rises(-1.0, 0.5, 2.0), 0.0) == "0.01 to 0.1"
    assert module._width(rises(0.001, math.inf, math.inf), 0.0) == "0.01 to 0.1"


def test_weights_of_zero_only_cannot_change_relatively() -> None:
    reading = read(network(scale=0.0))
    assert reading.verdict.level is Level.NOT_APPLICABLE
    assert "every weight is 0" in reading.headline


def test_the_sample_of_examples_is_said_and_drawn_with_the_seed() -> None:
    reading = read(network(), examples=20)
    assert any("20 training examples" in note for note in reading.notes)
    assert read(network(), examples=20).value == reading.value
    assert read(network(), examples=20).value != read(network()).value


def test_half_precision_is_said() -> None:
    model = network().bfloat16()
    reading = measure(Sharpness(), Workbench.on(Specimen(model, Classification(), data())))
    assert any("bfloat16 rounds the moved weights" in note for note in reading.notes)


def test_regression_without_classes() -> None:
    x, y = data()
    specimen = Specimen(nn.Linear(5, 1).double(), Regression(), (x, y.double()))
    reading = measure(Sharpness(), Workbench.on(specimen))
    assert reading.measured
    assert reading.value is not None
    assert reading.value > 0


def test_settings_are_checked() -> None:
    with pytest.raises(SettingError, match=r"sharpness\.pairs must be a whole number"):
        Sharpness(pairs=1)
    with pytest.raises(SettingError, match=r"sharpness\.relative_radius must be a number"):
        Sharpness(relative_radius=0.0)
