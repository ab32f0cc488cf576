"""Sweeps over data, width and epochs: a peak where there is one, none where there is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone import Recipe, Specimen
from torchstone.details import Curve, Table
from torchstone.errors import SettingError
from torchstone.instruments.generalization.double_descent import DoubleDescent, judge
from torchstone.instruments.measurement import measure
from torchstone.objectives import Classification, Objective, Regression
from torchstone.reading import Level, Reading
from torchstone.specimens.networks import mlp
from torchstone.testing import model_state, same_state
from torchstone.workbench import Workbench
from torchstone.workbench.size_sweep import Size, compared, usual_width

PARAMETERS = 32


def specimen(
    build: Callable[..., nn.Module],
    objective: Objective,
    data: tuple[Any, Any],
    lr: float = 0.2,
    epochs: int = 10,
    batch_size: int = 32,
    decay: float = 0.0,
) -> Specimen:
    recipe = Recipe(
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=lr, momentum=0.9, weight_decay=decay),
        lr=lr,
        batch_size=batch_size,
        epochs=epochs,
        build=build,
    )
    return Specimen(build(generator=torch.Generator().manual_seed(0)), objective, *data, recipe)


def linear(generator: torch.Generator) -> nn.Module:
    model = nn.utils.skip_init(nn.Linear, PARAMETERS, 1, bias=False)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=1e-3, generator=generator)
    return model


def regression(noise: float) -> tuple[Any, Any]:
    source = torch.Generator().manual_seed(1)
    beta = torch.randn(PARAMETERS, 1, generator=source) / PARAMETERS**0.5

    def draw(n: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(n, PARAMETERS, generator=source)
        return x, x @ beta + noise * torch.randn(n, 1, generator=source)

    return draw(4 * PARAMETERS), draw(300)


def curves(reading: Reading) -> dict[str, Curve]:
    return {detail.title: detail for detail in reading.details if isinstance(detail, Curve)}


def test_least_squares_is_worst_where_examples_equal_parameters() -> None:
    # From near zero gradient descent goes to the fit of smallest norm: its error peaks at n = p.
    made = specimen(linear, Regression(), regression(1.0), lr=0.05, epochs=300, batch_size=4 * PARAMETERS)
    reading = measure(DoubleDescent(), Workbench.on(made))
    [test, _] = curves(reading)["Over training examples"].lines
    assert test.x == (16, 32, 64, 128)
    assert max(test.y) == test.y[1]
    assert reading.verdict.level is Level.ATTENTION
    assert "data from 16 to 32" in reading.verdict.reason
    assert reading.remedies[0].claim == "double_descent"
    marks = {marker.label: marker.value for marker in curves(reading)["Over training examples"].markers}
    assert marks["this recipe"] == 128
    assert marks["most that is still fitted"] == PARAMETERS
    assert reading.value is not None
    assert reading.value < 0
    assert test.y[-1] - test.y[-2] == pytest.approx(reading.value)


def test_with_weight_decay_there_is_no_peak() -> None:
    # The best penalty at n = p: half the decay times n is noise variance times p over signal.
    made = specimen(
        linear, Regression(), regression(1.0), lr=0.05, epochs=80, batch_size=4 * PARAMETERS, decay=2.0
    )
    reading = measure(DoubleDescent(), Workbench.on(made))
    assert reading.verdict.level is Level.GOOD
    [test, _] = curves(reading)["Over training examples"].lines
    assert max(test.y) < 1.01 * test.y[0]
    assert test.y[-1] < test.y[-2] < test.y[1]
    assert "More data" in reading.remedies[0].action


def network(*, width: int = 16, generator: torch.Generator) -> nn.Module:
    return mlp([4, width, 2], generator=generator)


def classes() -> tuple[Any, Any]:
    source = torch.Generator().manual_seed(2)

    def draw(n: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(n, 4, generator=source)
        return x, (x[:, 0] * x[:, 1] > 0).long()

    return draw(160), draw(200)


@pytest.fixture(scope="module")
def classified() -> tuple[Specimen, Reading]:
    made = specimen(network, Classification(), classes(), epochs=30)
    return made, measure(DoubleDescent(), Workbench.on(made))


def test_width_is_swept_where_the_recipe_takes_one(classified: tuple[Specimen, Reading]) -> None:
    _, reading = classified
    found = curves(reading)
    assert set(found) == {"Over training examples", "Over width", "Over epochs"}
    assert found["Over width"].lines[0].x == (4, 8, 16, 32)
    assert found["Over width"].markers[0].value == 16
    # The usual width and all examples are the same networks.
    widths, data = found["Over width"].lines[0], found["Over training examples"].lines[0]
    assert widths.y[2] == data.y[-1]
    assert found["Over epochs"].lines[0].y[-1] == pytest.approx(data.y[-1], abs=1e-12)
    assert len(found["Over epochs"].lines[0].x) == 30
    [table] = [detail for detail in reading.details if isinstance(detail, Table)]
    assert len(table.rows) == 8


def test_more_data_help_here(classified: tuple[Specimen, Reading]) -> None:
    _, reading = classified
    [test, _] = curves(reading)["Over training examples"].lines
    assert test.y[-1] < test.y[0] - 0.05
    assert f"the test error falls from {test.y[-2]:.2%} to {test.y[-1]:.2%}" in reading.headline


def test_the_seed_decides_and_nothing_is_changed(classified: tuple[Specimen, Reading]) -> None:
    made, reading = classified
    before = model_state(made.model)
    assert measure(DoubleDescent(), Workbench.on(made)).without_cost() == reading.without_cost()
    assert same_state(before, model_state(made.model))


def test_without_a_width_the_reading_says_so() -> None:
    build = lambda generator: mlp([4, 8, 2], generator=generator)
    reading = measure(
        DoubleDescent(seeds=2), Workbench.on(specimen(build, Classification(), classes(), epochs=2))
    )
    assert "Over width" not in curves(reading)
    assert any("no sweep over width" in note.lower() for note in reading.notes)


def test_too_few_examples_and_trainings_that_diverge_are_refused() -> None:
    (x, y), test = classes()
    few = measure(
        DoubleDescent(), Workbench.on(specimen(network, Classification(), ((x[:12], y[:12]), test)))
    )
    assert few.verdict.level is Level.NOT_APPLICABLE
    assert "at least 2 test examples and 10 training examples" in few.headline
    wild = specimen(linear, Regression(), regression(1.0), lr=1e18, epochs=5)
    reading = measure(DoubleDescent(seeds=2), Workbench.on(wild))
    assert "diverged at size 16" in reading.headline


def test_usual_width() -> None:
    assert usual_width(network) == 16
    assert usual_width(linear) is None
    assert usual_width(None) is None
    assert usual_width(lambda width: width) is None
    assert usual_width(lambda width=True: width) is None
    assert usual_width(dict) is None


def test_neighbours_are_compared_pair_by_pair() -> None:
    sizes = [Size(n, torch.full((2, 3), float(n)), torch.zeros(2), fitted=False) for n in (1, 3, 4)]
    steps = compared(sizes)
    assert [(step.low, step.high, step.change) for step in steps] == [(1, 3, 2.0), (3, 4, 1.0)]


def test_judging() -> None:
    assert judge([]).level is Level.GOOD
    verdict = judge(["data from 1 to 2", "width from 3 to 4"])
    assert verdict.level is Level.ATTENTION
    assert verdict.reason == "the test error rises with data from 1 to 2, and with width from 3 to 4"


@pytest.mark.parametrize("wrong", [(), (0.0,), (1.0,), ("half",), 0.5, (True,)])
def test_shares_out_of_range_are_named(wrong: Any) -> None:
    with pytest.raises(SettingError, match=r"double_descent\.shares must be a tuple"):
        DoubleDescent(shares=wrong)
