"""Bias and variance of networks trained on the spot: against least squares, and as a reading."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone import Recipe, Specimen
from torchstone.bounds import squared_bias_variance
from torchstone.details import Scalars, Table
from torchstone.instruments.generalization.bias_variance import BiasVarianceSplit, judge
from torchstone.instruments.measurement import measure
from torchstone.objectives import CausalLM, Classification, Objective, Regression
from torchstone.reading import Level, Reading
from torchstone.specimens.networks import mlp
from torchstone.testing import model_state, same_state
from torchstone.workbench import Workbench

INPUTS, NOISE = 6, 0.5


def gaussian(source: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=source)


def linear(generator: torch.Generator) -> nn.Module:
    model = nn.utils.skip_init(nn.Linear, INPUTS, 1, bias=False)
    for parameter in model.parameters():
        nn.init.normal_(parameter, generator=generator)
    return model


def made(
    build: Callable[..., nn.Module],
    objective: Objective,
    data: tuple[Any, Any],
    lr: float = 0.1,
    epochs: int = 40,
    batch_size: int = 32,
) -> Specimen:
    recipe = Recipe(
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=lr),
        lr=lr,
        batch_size=batch_size,
        epochs=epochs,
        build=build,
    )
    model = build(generator=torch.Generator().manual_seed(0))
    return Specimen(model, objective, *data, recipe)


def regression(count: int, noiseless_test: bool = True) -> tuple[Any, Any]:
    source = torch.Generator().manual_seed(1)
    beta = gaussian(source, INPUTS, 1)

    def draw(n: int, noise: float) -> tuple[Tensor, Tensor]:
        x = gaussian(source, n, INPUTS)
        return x, x @ beta + noise * gaussian(source, n, 1)

    return draw(count, NOISE), draw(200, 0.0 if noiseless_test else NOISE)


def parts(reading: Reading) -> dict[str, Any]:
    [found] = [detail for detail in reading.details if isinstance(detail, Scalars)]
    return {item.name: item for item in found.items}


def test_a_linear_network_has_the_variance_of_least_squares_and_no_bias() -> None:
    specimen = made(linear, Regression(), regression(40 * 30), lr=0.3, epochs=20, batch_size=30)
    reading = measure(BiasVarianceSplit(parts=40), Workbench.on(specimen))
    assert (
        reading.verdict.level is Level.ATTENTION
    )  # all of the error is variance: the test targets have no noise
    found = parts(reading)
    exact = NOISE**2 * INPUTS / (30 - INPUTS - 1)
    set_part = found["Variance: training set"]
    assert set_part.low <= exact <= set_part.high
    assert set_part.value == pytest.approx(exact, rel=0.35)
    bias = found["Bias and noise"]
    assert bias.low <= 0 <= bias.high
    # A convex problem trained to its end does not depend on the seed.
    assert abs(found["Variance: seed"].value) < 0.02 * exact
    assert reading.value == pytest.approx(1, abs=0.1)


def classes(count: int = 240, wrong: float = 0.2) -> tuple[Any, Any]:
    source = torch.Generator().manual_seed(2)

    def draw(n: int) -> tuple[Tensor, Tensor]:
        x = gaussian(source, n, 4)
        y = (x[:, 0] * x[:, 1] > 0).long()
        return x, torch.where(torch.rand(n, generator=source) < wrong, 1 - y, y)

    return draw(count), draw(150)


def network(generator: torch.Generator) -> nn.Module:
    return mlp([4, 24, 2], generator=generator)


@pytest.fixture(scope="module")
def classified() -> tuple[Specimen, Reading]:
    specimen = made(network, Classification(), classes(), lr=0.3)
    return specimen, measure(BiasVarianceSplit(), Workbench.on(specimen))


def test_three_losses_add_up(classified: tuple[Specimen, Reading]) -> None:
    _, reading = classified
    [table] = [detail for detail in reading.details if isinstance(detail, Table)]
    names = {row[0] for row in table.rows}
    assert names == {"squared error of the probabilities", "misclassification", "cross-entropy"}
    for name in names:
        rows = {row[1]: row[2] for row in table.rows if row[0] == name}
        whole = rows.pop("all")
        assert len(rows) == (2 if name == "misclassification" else 3)  # two seeds have no majority
        assert sum(float(v) for v in rows.values() if isinstance(v, float)) == pytest.approx(whole, abs=1e-10)
    assert (
        sum(item.value for item in parts(reading).values()) > 0.2
    )  # 20% wrong labels: Brier of chance is 0.5


def test_the_model_is_left_alone_and_the_seed_decides(classified: tuple[Specimen, Reading]) -> None:
    specimen, reading = classified
    before = model_state(specimen.model)
    again = measure(BiasVarianceSplit(), Workbench.on(specimen))
    assert again.without_cost() == reading.without_cost()
    assert same_state(before, model_state(specimen.model))
    assert reading.cost.backward_passes > 8 * 35  # eight trainings with the updates of 40 epochs
    assert "60 of 240 examples" in reading.notes[0]
    assert "60 examples" in reading.headline


def test_one_seed_a_training_set_leaves_the_variance_whole() -> None:
    reading = measure(
        BiasVarianceSplit(seeds=1), Workbench.on(made(network, Classification(), classes(), epochs=5))
    )
    assert set(parts(reading)) == {"Bias and noise", "Variance"}
    assert "variance" in reading.headline


def test_trainings_that_diverge_are_said() -> None:
    data = regression(160)
    specimen = made(linear, Regression(), data, lr=1e18, epochs=30)
    reading = measure(BiasVarianceSplit(), Workbench.on(specimen))
    assert reading.verdict.level is Level.NOT_APPLICABLE
    assert "diverged" in reading.headline


def test_too_few_examples_and_other_tasks_are_refused_without_training() -> None:
    few = made(network, Classification(), classes(7))
    reading = measure(BiasVarianceSplit(), Workbench.on(few))
    assert "at least 8 training and 2 test examples" in reading.headline
    tokens = torch.randint(5, (40, 6), generator=torch.Generator().manual_seed(0))
    model = lambda generator: nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5))  # noqa: ARG005
    with torch.random.fork_rng(devices=[]):
        language = made(model, CausalLM(), (tokens, tokens))
    reading = measure(BiasVarianceSplit(), Workbench.on(language))
    assert reading.verdict.level is Level.NOT_APPLICABLE
    assert reading.cost.backward_passes == 0


def test_a_task_without_error_has_nothing_to_split() -> None:
    x = torch.randn(40, INPUTS, generator=torch.Generator().manual_seed(3))
    zero = (x, torch.zeros(40, 1))

    def silent(generator: torch.Generator) -> nn.Module:
        model = linear(generator)
        for parameter in model.parameters():
            nn.init.zeros_(parameter)
        return model

    reading = measure(BiasVarianceSplit(), Workbench.on(made(silent, Regression(), (zero, zero), epochs=2)))
    assert reading.value is None
    assert reading.verdict.level is Level.GOOD
    assert "no error to split" in reading.headline


def split(variance: float) -> Any:
    predictions = torch.tensor([1.0, -1.0] * 20).reshape(40, 1, 1).expand(40, 1, 30) * variance**0.5
    return squared_bias_variance(predictions, torch.full((30,), (1 - variance) ** 0.5))


@pytest.mark.parametrize(
    ("variance", "level"), [(0.9, Level.ATTENTION), (0.2, Level.GOOD), (0.5, Level.INFORMATIVE)]
)
def test_judging(variance: float, level: Level) -> None:
    assert judge(split(variance), 0.5).level is level


def test_no_error_is_good() -> None:
    found = squared_bias_variance(torch.zeros(4, 2, 5), torch.zeros(5))
    assert judge(found, 0.5).level is Level.GOOD
