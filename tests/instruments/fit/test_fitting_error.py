"""Too small or not trained enough: networks made to be one or the other, and a closed form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone import Recipe, Specimen
from torchstone.bounds import Interval
from torchstone.details import Curve, Scalars, Table
from torchstone.instruments.fit.fitting_error import FittingError, judge
from torchstone.instruments.measurement import measure
from torchstone.objectives import Classification, Objective, Regression
from torchstone.reading import Level, Reading
from torchstone.specimens.networks import mlp
from torchstone.testing import model_state, same_state
from torchstone.workbench import Workbench

INPUTS = 5


def specimen(
    build: Callable[..., nn.Module],
    objective: Objective,
    data: tuple[Any, Any],
    lr: float = 0.1,
    epochs: int = 10,
    batch_size: int = 32,
    **more: Any,
) -> Specimen:
    recipe = Recipe(
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=lr),
        lr=lr,
        batch_size=batch_size,
        epochs=epochs,
        build=build,
        **more,
    )
    return Specimen(build(generator=torch.Generator().manual_seed(0)), objective, *data, recipe)


def zeros(generator: torch.Generator) -> nn.Module:
    del generator
    model = nn.utils.skip_init(nn.Linear, INPUTS, 1, bias=False)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return model


def regression(slowest: float = 0.1) -> tuple[Any, Any]:
    source = torch.Generator().manual_seed(1)
    beta, scales = torch.randn(INPUTS, 1, generator=source), torch.linspace(1.0, slowest, INPUTS)

    def draw(n: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(n, INPUTS, generator=source) * scales
        return x, x @ beta + 0.1 * torch.randn(n, 1, generator=source)

    return draw(60), draw(100)


def parts(reading: Reading) -> dict[str, Any]:
    [found] = [detail for detail in reading.details if isinstance(detail, Scalars)]
    return {item.name: item for item in found.items}


def descended(x: Tensor, y: Tensor, lr: float, steps: int) -> float:
    """Training loss after gradient descent from zero on mean((x b - y)^2), by its eigenvectors."""
    x, y = x.double(), y.double()
    values, vectors = torch.linalg.eigh(2 * x.T @ x / len(x))
    target = vectors.T @ (2 * x.T @ y / len(x))[:, 0] / values
    b = vectors @ ((1 - (1 - lr * values) ** steps) * target)
    return float((x @ b[:, None] - y).square().mean())


def test_gradient_descent_on_least_squares_is_split_as_its_closed_form_says() -> None:
    (train_x, train_y), test = data = regression()
    reading = measure(
        FittingError(longer=4), Workbench.on(specimen(zeros, Regression(), data, epochs=20, batch_size=60))
    )
    short, long = (descended(train_x, train_y, 0.1, steps) for steps in (20, 80))
    found = parts(reading)
    assert reading.value == pytest.approx(short, rel=1e-4)
    assert found["Optimisation"].value == pytest.approx(short - long, rel=1e-4)
    assert found["Left by all of them"].value == pytest.approx(long, rel=1e-4)
    assert "Approximation" not in found
    assert reading.verdict.level is Level.ATTENTION
    assert any("no `width`" in note for note in reading.notes)
    [table] = [detail for detail in reading.details if isinstance(detail, Table)]
    assert [row[0] for row in table.rows] == ["recipe", "longer"]
    own = float(test[1].square().mean())  # of a network that was not trained
    assert table.rows[1][2] < table.rows[0][2] < own  # pyright: ignore[reportOperatorIssue]
    assert "pays on test data" in reading.remedies[0].action


def test_a_recipe_trained_to_the_end_has_no_optimisation_error() -> None:
    made = specimen(zeros, Regression(), regression(1.0), lr=0.3, epochs=60, batch_size=60)
    reading = measure(FittingError(longer=2, seeds=2), Workbench.on(made))
    assert reading.verdict.level is Level.GOOD
    assert parts(reading)["Optimisation"].value == pytest.approx(0, abs=1e-4)
    assert reading.remedies == ()


def network(*, width: int = 2, generator: torch.Generator) -> nn.Module:
    return mlp([2, width, 2], generator=generator)


def rings(n: int = 150) -> tuple[Any, Any]:
    source = torch.Generator().manual_seed(2)

    def draw(count: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(count, 2, generator=source)
        return x, ((x.norm(dim=1) > 0.7) & (x.norm(dim=1) < 1.5)).long()

    return draw(n), draw(n)


@pytest.fixture(scope="module")
def narrow() -> tuple[Specimen, Reading]:
    made = specimen(network, Classification(), rings(), lr=0.5, epochs=60)
    return made, measure(FittingError(seeds=6, wider=16, longer=2), Workbench.on(made))


def test_two_hidden_units_are_too_few_for_a_ring(narrow: tuple[Specimen, Reading]) -> None:
    _, reading = narrow
    found = parts(reading)
    assert found["Approximation"].low > 0
    assert found["Approximation"].value > found["Optimisation"].value
    assert "approximation error" in reading.verdict.reason
    assert any("wider network" in remedy.action for remedy in reading.remedies)


def test_parts_add_up_to_the_training_error_of_the_recipe(narrow: tuple[Specimen, Reading]) -> None:
    _, reading = narrow
    assert sum(item.value for item in parts(reading).values()) == pytest.approx(reading.value, abs=1e-12)
    [curve] = [detail for detail in reading.details if isinstance(detail, Curve)]
    train = curve.lines[0]
    assert len(train.x) == 120
    assert train.y[59] == pytest.approx(reading.value, abs=1e-12)


def test_the_seed_decides_and_nothing_is_changed(narrow: tuple[Specimen, Reading]) -> None:
    made, reading = narrow
    before = model_state(made.model)
    again = measure(FittingError(seeds=6, wider=16, longer=2), Workbench.on(made))
    assert again.without_cost() == reading.without_cost()
    assert same_state(before, model_state(made.model))


def test_without_test_data_the_training_error_is_split_all_the_same() -> None:
    made = specimen(zeros, Regression(), (regression()[0], None))
    reading = measure(FittingError(seeds=2), Workbench.on(made))
    assert reading.measured
    [table] = [detail for detail in reading.details if isinstance(detail, Table)]
    assert [row[2] for row in table.rows] == [None, None]


def test_a_schedule_fixes_the_length() -> None:
    schedule = lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=20)
    made = specimen(zeros, Regression(), regression(), schedule=schedule)
    reading = measure(FittingError(), Workbench.on(made))
    assert reading.verdict.level is Level.NOT_APPLICABLE
    assert "schedule" in reading.headline


def test_a_network_without_training_errors_is_not_trained_again() -> None:
    made = specimen(network, Classification(), rings())
    with torch.no_grad():
        labels = made.model(rings()[0][0]).argmax(1)
    agreeing = specimen(network, Classification(), ((rings()[0][0], labels), rings()[1]))
    reading = measure(FittingError(), Workbench.on(agreeing))
    assert (reading.value, reading.verdict.level) == (0.0, Level.GOOD)
    assert reading.cost.backward_passes == 0


def test_trainings_that_diverge_are_said() -> None:
    reading = measure(FittingError(), Workbench.on(specimen(zeros, Regression(), regression(), lr=1e9)))
    assert reading.verdict.level is Level.NOT_APPLICABLE


def test_judging() -> None:
    interval = lambda low: Interval(low, low + 0.1, 0.95, "")
    assert judge(0.0, {"Optimisation": interval(0.0)}, 0.1).reason == "nothing is left to fit"
    assert judge(0.5, {"Optimisation": interval(-0.05)}, 0.1).level is Level.GOOD
    assert judge(2.0, {"Optimisation": interval(0.04)}, 0.1).level is Level.GOOD
    unsure = judge(0.5, {"Optimisation": interval(0.04), "Left by all of them": interval(0.4)}, 0.1)
    assert unsure.level is Level.INFORMATIVE
    assert unsure.reason.startswith("whether optimisation error takes more")
    found = judge(0.5, {"Optimisation": interval(0.1), "Approximation": interval(0.2)}, 0.1)
    assert found.level is Level.ATTENTION
    assert found.reason == "approximation error is at least 40% of what is left on the training data"
