"""Siblings from other seeds: a network among them, and one that is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone import Recipe, Specimen
from torchstone.bounds import Interval
from torchstone.details import Scalars, Scatter, Table
from torchstone.instruments.generalization.seed_variance import SeedVariance, judge, predicted
from torchstone.instruments.measurement import measure
from torchstone.objectives import Classification, Objective, Regression
from torchstone.reading import Level, Reading
from torchstone.specimens.networks import mlp
from torchstone.testing import model_state, same_state
from torchstone.workbench import Workbench
from torchstone.workbench.ensembles import seed_ensemble
from torchstone.workbench.retraining import train_again


def classes() -> tuple[Any, Any]:
    source = torch.Generator().manual_seed(0)

    def draw(n: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(n, 4, generator=source)
        y = (x[:, 0] * x[:, 1] > 0).long()
        return x, torch.where(torch.rand(n, generator=source) < 0.1, 1 - y, y)

    return draw(80), draw(150)


def real() -> tuple[Any, Any]:
    (x, _), (tests, _) = classes()
    target = lambda inputs: (inputs[:, :1] * inputs[:, 1:2]).tanh()
    return (x, target(x)), (tests, target(tests))


def specimen(
    objective: Objective, data: tuple[Any, Any], outputs: int, lr: float = 0.2, trained: bool = True
) -> Specimen:
    build: Callable[..., nn.Module] = lambda generator: mlp([4, 12, outputs], generator=generator)
    recipe = Recipe(
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=lr, momentum=0.9),
        lr=lr,
        batch_size=16,
        epochs=15,
        build=build,
    )
    made = Specimen(build(generator=torch.Generator().manual_seed(0)), objective, *data, recipe)
    if not trained:
        return made
    model, _ = train_again(Workbench.on(made).specimen, seed=77)
    return Specimen(model, objective, *data, recipe)


@pytest.fixture(scope="module")
def classified() -> tuple[Specimen, Reading]:
    made = specimen(Classification(), classes(), 2)
    return made, measure(SeedVariance(), Workbench.on(made))


def scalars(reading: Reading, title: str) -> dict[str, Any]:
    [found] = [d for d in reading.details if isinstance(d, Scalars) and d.title == title]
    return {item.name: item for item in found.items}


def test_a_network_of_the_recipe_is_an_ordinary_seed(classified: tuple[Specimen, Reading]) -> None:
    made, reading = classified
    assert reading.verdict.level is Level.GOOD
    bench = Workbench.on(made)
    wrong = seed_ensemble(bench, 10).errors("test")
    assert reading.value == pytest.approx(float(wrong.mean()), abs=1e-12)
    found = scalars(reading, "Runs and what they can show")
    assert found["Standard deviation over seeds"].value == pytest.approx(float(wrong.mean(1).std()))
    assert found["This network"].value == pytest.approx(float(bench.errors("test").double().mean()))
    assert reading.uncertainty is not None
    mean = found["Mean over seeds"]
    assert (mean.low, mean.high) == (reading.uncertainty.low, reading.uncertainty.high)
    assert reading.uncertainty.covers == "seeds and examples"


def test_disagreements_are_counted(classified: tuple[Specimen, Reading]) -> None:
    made, reading = classified
    bench = Workbench.on(made)
    predictions = seed_ensemble(bench, 10).scores("test").argmax(-1)
    pairs = [(predictions[i] != predictions[j]).double().mean() for i in range(10) for j in range(i)]
    found = scalars(reading, "How often two trainings disagree")
    assert found["Two other seeds"].value == pytest.approx(float(torch.stack(pairs).mean()))
    [table] = [d for d in reading.details if isinstance(d, Table)]
    for row in table.rows:
        of_example = predictions[:, int(row[0])]  # pyright: ignore[reportArgumentType]
        right = float((of_example == classes()[1][1][int(row[0])]).double().mean())  # pyright: ignore[reportArgumentType]
        assert row[2] == pytest.approx(right)
        assert row[3] == pytest.approx(2 * right * (1 - right) * 10 / 9)  # two classes
    [scatter] = [d for d in reading.details if isinstance(d, Scatter)]
    assert len(scatter.x) == 10


def test_the_same_seed_gives_the_same_bits_and_nothing_is_changed(
    classified: tuple[Specimen, Reading],
) -> None:
    made, reading = classified
    before = model_state(made.model)
    assert measure(SeedVariance(), Workbench.on(made)).without_cost() == reading.without_cost()
    assert same_state(before, model_state(made.model))


def test_an_untrained_network_is_no_sibling() -> None:
    made = specimen(Classification(), classes(), 2, trained=False)
    reading = measure(SeedVariance(members=5), Workbench.on(made))
    assert reading.verdict.level is Level.ATTENTION
    assert "worse than other seeds" in reading.verdict.reason
    assert reading.remedies[1].block == "torchstone.bounds.compare_seeds"


def test_regression_compares_losses() -> None:
    made = specimen(Regression(), real(), 1, lr=0.05)
    reading = measure(SeedVariance(members=5), Workbench.on(made))
    assert reading.unit == "loss"
    losses = seed_ensemble(Workbench.on(made), 5).losses("test")
    assert reading.value == pytest.approx(float(losses.mean()))
    assert "test loss" in reading.headline


def test_trainings_that_diverge_are_said() -> None:
    made = specimen(Regression(), real(), 1, lr=1e8, trained=False)
    reading = measure(SeedVariance(members=3), Workbench.on(made))
    assert reading.verdict.level is Level.NOT_APPLICABLE
    assert "diverged" in reading.headline


def test_one_more_run_is_predicted_as_often_as_it_says() -> None:
    source = torch.Generator().manual_seed(1)
    runs = torch.randn(2000, 6, generator=source, dtype=torch.float64)
    hits = [float(row[-1]) in predicted(row[:-1], 0.9) for row in runs]
    assert sum(hits) / len(hits) == pytest.approx(0.9, abs=0.02)


def test_judging() -> None:
    expected = Interval(0.1, 0.2, 0.95, "")
    assert judge(0.15, expected, 0.95).level is Level.GOOD
    assert "would not repeat" in judge(0.05, expected, 0.95).reason
    assert "unlucky" in judge(0.25, expected, 0.95).reason
    same = predicted(torch.full((4,), 1 / 3, dtype=torch.float64), 0.95)
    assert judge(1 / 3, same, 0.95).level is Level.GOOD
