"""The error budget against laws whose Bayes error and noise are known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn

from torchstone.bounds.bayes_error import cover_hart_bracket
from torchstone.bounds.budget import Estimate, budget
from torchstone.bounds.proportion import clopper_pearson
from torchstone.details import Scalars
from torchstone.errors import SettingError
from torchstone.instruments.fit.error_budget import ErrorBudget, judge
from torchstone.instruments.measurement import measure
from torchstone.objectives import CausalLM, Classification, Objective, Regression
from torchstone.reading import Level, Reading
from torchstone.specimen import Specimen
from torchstone.specimens.networks import mlp
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
    assert train > reading.value  # by chance; the parts still add up to the test error
    assert sum(value for value, _, _ in parts.values()) == pytest.approx(reading.value, abs=1e-12)


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


def test_errors_and_neighbour_rules_against_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(4)
    model: Any = mlp([5, 7, 3], generator=generator)
    draw = lambda count: (x := torch.randn(count, 5, generator=generator), x[:, :3].argmax(1))
    train, test = draw(150), draw(90)
    bench = Workbench.on(Specimen(model, Classification(), train, test))
    reading = measure(ErrorBudget(), bench)
    each = 1 - 0.05 / 3
    hidden = lambda x: model[:-1](x).detach().numpy()
    lows, highs = [], []
    for feature in (lambda x: x.numpy(), hidden):
        for k in (1, 10):
            known = KNeighborsClassifier(k, algorithm="brute").fit(feature(train[0]), train[1].numpy())
            votes = train[1].numpy()[known.kneighbors(feature(test[0]), return_distance=False)]
            # The most frequent label, ties to the one whose first neighbour is nearest.
            guess = [
                max(row, key=lambda label, row=row: ((row == label).sum(), -list(row).index(label)))
                for row in votes
            ]
            wrong = int((np.array(guess) != test[1].numpy()).sum())
            interval = clopper_pearson(wrong, 90, 1 - (1 - each) / 4)
            highs.append(interval.high)
            if k == 1:
                lows.append(cover_hart_bracket(interval.low, 3)[0])
    value, low, high = parts_of(reading)["Irreducible"]
    error = float((model(test[0]).argmax(1) != test[1]).double().mean())
    assert reading.value == pytest.approx(error)
    test_high = clopper_pearson(round(90 * error), 90, each).high
    assert low == pytest.approx(min(*lows, value))
    assert high == pytest.approx(max(min(*highs, test_high), value))


def test_a_language_model_counts_the_irreducible_part_with_fitting() -> None:
    case = next(case for case in zoo(hugging_face=False) if case.name == "language_model")
    reading = measure(ErrorBudget(), Workbench.on(case.specimen()))
    assert isinstance(case.specimen().objective, CausalLM)
    assert reading.unit == "loss"
    assert "entropy" in reading.notes[0]
    assert reading.verdict.level is Level.INFORMATIVE
    assert "irreducible is unknown" in reading.verdict.reason
    parts = parts_of(reading)
    assert list(parts) == ["Fitting and irreducible", "Estimation"]
    assert reading.value == pytest.approx(sum(value for value, _, _ in parts.values()))
    bench = Workbench.on(case.specimen())
    train, test = bench.losses("train"), bench.losses("test")
    assert parts["Estimation"][0] == pytest.approx(max(0.0, float(test.mean() - train.mean())))


class Likelihood(Objective):
    """Negative log-likelihood of N(output, 1/100), which can be negative."""

    def outputs(self, model: nn.Module, batch: Any) -> Tensor:
        return model(batch[0])

    def losses(self, outputs: Tensor, batch: Any) -> Tensor:
        return (50 * (outputs - batch[1]).square() - math.log(10)).sum(1)


def test_losses_that_can_be_negative_have_no_parts() -> None:
    x = torch.ones(20, 1)
    reading = measure(ErrorBudget(), Workbench.on(Specimen(nn.Identity(), Likelihood(), (x, x), (x, x))))
    assert reading.verdict.level is Level.NOT_APPLICABLE
    assert "can be negative" in reading.verdict.reason


def test_inputs_without_neighbours_are_said() -> None:
    """Token ids: only the hidden layer has neighbours; without one, nothing brackets."""
    generator = torch.Generator().manual_seed(5)
    tokens, labels = (
        torch.randint(9, (60, 4), generator=generator),
        torch.randint(2, (60,), generator=generator),
    )

    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bag, self.head = nn.EmbeddingBag(9, 5), nn.Linear(5, 2)

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.bag(ids))

    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bag = nn.EmbeddingBag(9, 2)

        def forward(self, ids: Tensor) -> Tensor:
            return self.bag(ids)

    examine = lambda model: measure(
        ErrorBudget(), Workbench.on(Specimen(model, Classification(), (tokens, labels), (tokens, labels)))
    )
    with_hidden = examine(Bag())
    assert any("No neighbours in the inputs" in note for note in with_hidden.notes)
    assert "the last hidden layer" in with_hidden.explanation
    assert "Irreducible" in parts_of(with_hidden)
    without = examine(Table())
    assert any("the network has no hidden layer" in note for note in without.notes)
    assert without.verdict.level is Level.INFORMATIVE


def test_few_examples_leave_the_noise_of_a_regression_unknown() -> None:
    x = torch.arange(8.0)[:, None]
    reading = measure(
        ErrorBudget(), Workbench.on(Specimen(nn.Identity(), Regression(), (x, x + 1), (x, x + 1)))
    )
    assert reading.verdict.level is Level.INFORMATIVE
    assert any("at least 12 training examples" in note for note in reading.notes)


def test_intervals_hold_jointly() -> None:
    """100 draws from known laws: test error and all four parts at once, at the nominal 95%."""
    held = 0
    for seed in range(100):
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
        truths = {
            "Irreducible": phi(-1.0),
            "Fitting": test - phi(-1.0),
            "Estimation": 0.0,
            "Shift": shifted - test,
        }
        parts, bar = parts_of(reading), reading.uncertainty
        assert bar is not None
        held += bar.low <= test <= bar.high and all(
            parts[name][1] <= truth <= parts[name][2] for name, truth in truths.items()
        )
    assert stats.binomtest(held, 100, 0.95, alternative="less").pvalue > 0.01


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


def test_the_parts_add_up_and_hold_whatever_holds_for_their_ingredients() -> None:
    """Random errors in random intervals: sums to 1e-12, and the true parts lie in the parts' intervals."""
    generator = torch.Generator().manual_seed(6)
    for _ in range(500):
        truth = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
        truth[0] = min(truth[0], truth[2])  # nothing beats the Bayes classifier
        estimates = []
        for value in truth:
            low, middle, high = (
                (torch.rand(3, generator=generator, dtype=torch.float64) - 0.5).sort().values.tolist()
            )
            estimates.append(
                Estimate(max(0.0, value + middle), max(0.0, value + min(low, 0)), value + max(high, 0))
            )
        exact = [Estimate(value, value, value) for value in truth]
        found, true = budget(*estimates), budget(*exact)
        parts = found.parts
        total = sum(part.value for name, part in parts.items() if name != "shift")
        assert total == pytest.approx(estimates[2].value, abs=1e-12)
        for name, part in true.parts.items():
            assert parts[name].low - 1e-12 <= part.value <= parts[name].high + 1e-12


def test_judgement() -> None:
    exact = lambda value: Estimate(value, value, value)
    verdict = lambda test: judge(budget(exact(0.0), exact(0.0), exact(test)), exact(test), trivial=0.8)
    assert verdict(0.0).level is Level.GOOD
    assert verdict(0.1).level is verdict(0.2).level is Level.ATTENTION
    assert verdict(0.21).level is Level.POOR
    assert "25%" in verdict(0.21).threshold
    assert "Cover & Hart 1967" in verdict(0.21).source
    unclear = Estimate(0.3, 0.1, 0.5)
    wide = judge(budget(Estimate(0.1, 0.0, 0.1), exact(0.0), unclear), unclear, 0.8)
    assert (wide.level, "between none and 0.5" in wide.reason) == (Level.INFORMATIVE, True)
    narrow = Estimate(0.15, 0.09, 0.2)
    assert judge(budget(Estimate(0.1, 0.05, 0.1), exact(0.0), narrow), narrow, 0.8).level is Level.GOOD
    unknown = judge(budget(exact(0.0), exact(0.0), exact(0.5)), exact(0.5), None, bracketed=False)
    assert unknown.level is Level.INFORMATIVE
    moved = budget(exact(0.0), exact(0.0), exact(0.5), exact(0.6))
    assert judge(moved, exact(0.5), None, bracketed=False).level is Level.ATTENTION
    assert "shift" in judge(moved, exact(0.5), None, bracketed=False).reason


def test_bad_settings_are_named() -> None:
    with pytest.raises(SettingError, match=r"error_budget\.confidence"):
        ErrorBudget(confidence=1.0)
