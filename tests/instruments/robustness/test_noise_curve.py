"""Accuracy under corruptions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from torchstone.details import Curve, Table
from torchstone.errors import SettingError
from torchstone.instruments.measurement import measure
from torchstone.instruments.robustness.noise_curve import NoiseCurve, judge
from torchstone.objectives import Classification, Regression
from torchstone.reading import Level, Reading
from torchstone.robust import CORRUPTIONS, GaussianNoise
from torchstone.specimen import Specimen
from torchstone.workbench import Workbench


def rows(reading: Reading) -> dict[str, list[float]]:
    table = next(detail for detail in reading.details if isinstance(detail, Table))
    return {str(row[0]): [float(cell or 0) for cell in row[1:]] for row in table.rows}


def sign_of_first(count: int, seed: int, width: int = 4) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
    return x, (x[:, 0] > 0).long()


def first_feature(scale: float = 1.0) -> nn.Linear:
    layer = nn.Linear(4, 2)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[1, 0] = scale
        layer.bias.zero_()
    return layer


def test_gaussian_noise_flips_the_sign_as_often_as_theory_says() -> None:
    """x ~ N(0,1), noise s: P(sign x = sign(x + s u)) = 1/2 + asin(1/sqrt(1+s^2))/pi; clipping keeps signs."""
    import math

    specimen = Specimen(first_feature(), Classification(), sign_of_first(100, 0), sign_of_first(8000, 1))
    reading = measure(NoiseCurve(examples=8000), Workbench.on(specimen))
    found = rows(reading)["Gaussian noise"]
    for strength, accuracy in zip(GaussianNoise().strengths, found, strict=True):
        expected = 0.5 + math.asin(1 / math.sqrt(1 + strength**2)) / math.pi
        assert accuracy == pytest.approx(expected, abs=4 * math.sqrt(0.25 / 8000))


def test_images_get_every_kind_and_a_constant_network_loses_nothing() -> None:
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([[0.0, 1.0]]).expand(len(x), 2)

    x = torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    y = (torch.arange(60) % 3 == 0).long()
    reading = measure(NoiseCurve(), Workbench.on(Specimen(Constant(), Classification(), (x, y))))
    assert len(rows(reading)) == len(CORRUPTIONS)
    assert reading.verdict.level is Level.GOOD
    assert all(value == pytest.approx(1 / 3) for series in rows(reading).values() for value in series)


def test_the_value_is_the_mean_over_kinds_and_examples_at_severity_1() -> None:
    specimen = Specimen(first_feature(), Classification(), sign_of_first(100, 0), sign_of_first(200, 1))
    reading = measure(NoiseCurve(), Workbench.on(specimen))
    found = rows(reading)
    assert reading.value == pytest.approx(sum(series[0] for series in found.values()) / len(found))
    curve = next(detail for detail in reading.details if isinstance(detail, Curve))
    assert curve.lines[0].y[0] == 1.0  # clean


def test_the_batch_size_does_not_matter() -> None:
    values = []
    for size in (7, 64):
        specimen = Specimen(
            first_feature(), Classification(), sign_of_first(100, 0), sign_of_first(150, 1), batch_size=size
        )
        values.append(measure(NoiseCurve(), Workbench.on(specimen)).value)
    assert values[0] == values[1]


def test_a_regression_reports_its_loss() -> None:
    x = torch.randn(300, 3, generator=torch.Generator().manual_seed(2))
    y = x @ torch.tensor([[1.0], [1.0], [1.0]]) + 0.1 * torch.randn(
        300, 1, generator=torch.Generator().manual_seed(3)
    )
    model = nn.Linear(3, 1)
    with torch.no_grad():
        model.weight.fill_(1.0)
        model.bias.zero_()
    reading = measure(NoiseCurve(), Workbench.on(Specimen(model, Regression(), (x, y))))
    assert reading.verdict.level is Level.POOR  # noise of a third of a deviation against a loss of 0.01
    # Gaussian noise s adds 3 s^2 to the squared error, less what the clipping takes away.
    strength = GaussianNoise().strengths[0]
    assert rows(reading)["Gaussian noise"][0] == pytest.approx(0.01 + 3 * strength**2, rel=0.2)


def test_the_error_bar_covers() -> None:
    """Coverage of the mean over examples, the noise drawn once, against 20,000 examples."""
    truth_specimen = Specimen(
        first_feature(), Classification(), sign_of_first(50, 0), sign_of_first(20_000, 99)
    )
    truth = measure(NoiseCurve(examples=20_000), Workbench.on(truth_specimen)).value
    assert truth is not None
    covered = 0
    for seed in range(200):
        specimen = Specimen(
            first_feature(), Classification(), sign_of_first(50, 0), sign_of_first(150, 1000 + seed)
        )
        reading = measure(NoiseCurve(), Workbench.on(specimen, seed=seed))
        assert reading.uncertainty is not None
        covered += reading.uncertainty.low <= truth <= reading.uncertainty.high
    assert 178 <= covered <= 200


def test_judgement() -> None:
    assert judge(0.95, 1.0, True).level is Level.GOOD
    assert judge(0.89, 1.0, True).level is Level.ATTENTION
    assert judge(0.69, 1.0, True).level is Level.POOR
    assert judge(1.4, 1.0, False).level is Level.GOOD
    assert judge(1.6, 1.0, False).level is Level.ATTENTION
    assert judge(3.1, 1.0, False).level is Level.POOR


def test_bad_settings_are_named() -> None:
    with pytest.raises(SettingError, match=r"noise_curve\.examples"):
        NoiseCurve(examples=1)
