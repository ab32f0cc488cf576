"""The error budget against laws whose Bayes error and noise are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from torchstone.bounds.budget import Estimate, budget
from torchstone.details import Scalars
from torchstone.errors import SettingError
from torchstone.instruments.fit.error_budget import ErrorBudget, judge
from torchstone.instruments.measurement import measure
from torchstone.objectives import CausalLM, Classification, Regression
from torchstone.reading import Level, Reading
from torchstone.specimen import Specimen
from torchstone.testing import zoo
from torchstone.workbench import Workbench


def gaussians(count: int, seed: int, mu: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 2, (count,), generator=generator)
    return torch.randn(count, 1, generator=generator) + mu * (2 * y[:, None] - 1), y


def bayes(shift: float = 0.0) -> nn.Linear:
    """The Bayes classifier of N(+-mu, 1), or one whose threshold is moved."""
    layer = nn.Linear(1, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[-1.0], [1.0]]))
        layer.bias.copy_(torch.tensor([shift, -shift]))
    return layer


def phi(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


def parts_of(reading: Reading) -> dict[str, tuple[float, float, float]]:
    bar = next(detail for detail in reading.details if isinstance(detail, Scalars) and detail.stacked)
    return {item.name: (item.value, item.low or 0.0, item.high or 0.0) for item in bar.items}


def test_the_bayes_classifier_has_nothing_to_avoid() -> None:
    specimen = Specimen(bayes(), Classification(), gaussians(5000, 0), gaussians(5000, 1))
    reading = measure(ErrorBudget(), Workbench.on(specimen))
    truth = phi(-1.0)
    parts = parts_of(reading)
    assert parts["Irreducible"][1] <= truth <= parts["Irreducible"][2] + 1e-9
    assert reading.uncertainty is not None
    assert reading.uncertainty.low <= truth <= reading.uncertainty.high
    assert parts["Estimation"][1] == 0
    assert reading.verdict.level is Level.GOOD


def test_a_moved_threshold_is_a_fitting_error_and_the_parts_add_up() -> None:
    specimen = Specimen(bayes(shift=1.5), Classification(), gaussians(5000, 0), gaussians(5000, 1))
    reading = measure(ErrorBudget(), Workbench.on(specimen))
    parts = parts_of(reading)
    assert max(parts, key=lambda name: parts[name][0]) == "Fitting"
    assert reading.verdict.level is not Level.GOOD
    assert reading.value is not None
    train = float(Workbench.on(specimen).errors("train").double().mean())
    assert sum(value for value, _, _ in parts.values()) == pytest.approx(max(reading.value, train), abs=1e-12)


def test_memorising_is_an_estimation_error() -> None:
    """A lookup of the training labels: no training error, chance on new data; the classes overlap little."""
    x, y = gaussians(400, 0, mu=3.0)

    class Memory(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            nearest = (inputs - x.T).abs()
            known = nearest.min(1).values == 0
            labels = torch.where(known, y[nearest.argmin(1)], (1000 * inputs[:, 0]).long() % 2)
            return nn.functional.one_hot(labels, 2).float()

    reading = measure(
        ErrorBudget(), Workbench.on(Specimen(Memory(), Classification(), (x, y), gaussians(400, 1, 3.0)))
    )
    parts = parts_of(reading)
    assert parts["Fitting"][0] == 0
    assert parts["Estimation"][0] > 0.4
    assert reading.verdict.level is Level.POOR


def test_shifted_data_have_a_part_of_their_own() -> None:
    specimen = Specimen(
        bayes(), Classification(), gaussians(2000, 0), gaussians(2000, 1), shifted=gaussians(2000, 2, mu=0.2)
    )
    reading = measure(ErrorBudget(), Workbench.on(specimen))
    truth = phi(-0.2) - phi(-1.0)
    value, low, high = parts_of(reading)["Shift"]
    assert low <= truth <= high
    assert value == pytest.approx(truth, abs=0.05)
    assert "shift" in reading.verdict.reason


def test_a_regression_is_split_by_its_noise() -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(3000, 3, generator=generator)
    truth = 3 * torch.sin(3 * x[:, 0]) + x[:, 1]
    y = truth + 0.5 * torch.randn(3000, generator=generator)

    class Exact(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return 3 * torch.sin(3 * inputs[:, 0]) + inputs[:, 1]

    reading = measure(
        ErrorBudget(),
        Workbench.on(Specimen(Exact(), Regression(), (x[:2000], y[:2000]), (x[2000:], y[2000:]))),
    )
    assert reading.unit == "squared error"
    assert reading.value == pytest.approx(0.25, rel=0.1)
    assert parts_of(reading)["Irreducible"][0] == pytest.approx(0.25, rel=0.25)
    assert reading.verdict.level is Level.GOOD


def test_a_language_model_counts_the_irreducible_part_with_fitting() -> None:
    case = next(case for case in zoo(hugging_face=False) if case.name == "language_model")
    reading = measure(ErrorBudget(), Workbench.on(case.specimen()))
    assert isinstance(case.specimen().objective, CausalLM)
    assert reading.unit == "loss"
    assert "entropy" in reading.notes[0]


def test_intervals_hold_jointly() -> None:
    """200 draws from known laws: test error, shift and the bracket together, at the nominal 95%."""
    held = 0
    for seed in range(200):
        specimen = Specimen(
            bayes(shift=0.5),
            Classification(),
            gaussians(200, 3 * seed),
            gaussians(200, 3 * seed + 1),
            shifted=gaussians(200, 3 * seed + 2, mu=0.5),
        )
        reading = measure(ErrorBudget(), Workbench.on(specimen))
        test = (phi(-1.5) + phi(-0.5)) / 2
        shifted = (phi(-1.0) + phi(0.0)) / 2
        shift = parts_of(reading)["Shift"]
        bar = reading.uncertainty
        assert bar is not None
        held += bar.low <= test <= bar.high and shift[1] <= shifted - test <= shift[2]
    assert (
        held >= 180
    )  # Binomial(200, 0.95) is below 181 with probability under 1%; the bars are conservative


def test_the_arithmetic() -> None:
    exact = lambda value: Estimate(value, value, value)
    parts = budget(exact(0.1), exact(0.3), exact(0.4), exact(0.6)).parts
    assert {name: round(part.value, 12) for name, part in parts.items()} == {
        "irreducible": 0.1,
        "fitting": 0.2,
        "estimation": 0.1,
        "shift": 0.2,
    }
    below = budget(exact(0.3), exact(0.0), exact(0.2)).parts  # the bracket may lie above the test error
    assert below["irreducible"].value == 0.2
    assert below["fitting"].value == below["estimation"].value == 0
    with pytest.raises(SettingError, match="low <= value <= high"):
        Estimate(0.5, 0.6, 0.7)


def test_judgement() -> None:
    exact = lambda value: Estimate(value, value, value)
    verdict = lambda test: judge(budget(exact(0.0), exact(0.0), exact(test)), exact(test), trivial=0.8)
    assert verdict(0.0).level is Level.GOOD
    assert verdict(0.1).level is Level.ATTENTION
    assert verdict(0.21).level is Level.POOR
    assert verdict(0.21).threshold
    assert verdict(0.21).source


def test_bad_settings_are_named() -> None:
    with pytest.raises(SettingError, match=r"error_budget\.confidence"):
        ErrorBudget(confidence=1.0)
