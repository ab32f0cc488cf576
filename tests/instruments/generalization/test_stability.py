"""Twin trainings of a recipe: distances against separate trainings, the exchanged examples, verdicts, and refusals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone import Recipe, Specimen
from torchstone.bounds.interval import Interval
from torchstone.bounds.power_law import PowerLaw
from torchstone.data.split import DataSplit
from torchstone.details import Curve, Scalars
from torchstone.errors import SettingError
from torchstone.instruments.generalization.stability import Stability, judge, on_average_stability
from torchstone.instruments.measurement import measure
from torchstone.objectives import Classification, Regression
from torchstone.reading import Level, Reading
from torchstone.specimens.networks import mlp
from torchstone.specimens.trained import Training, trained
from torchstone.testing import model_state, same_state
from torchstone.training.evaluation import cross_entropy, squared_error
from torchstone.workbench import Workbench
from torchstone.workbench.retraining import train_many


def data(count: int = 48) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(count), dtype=torch.float64)
    return x, x[:, :3].argmax(1)


def build(*, generator: torch.Generator) -> nn.Module:
    return mlp([4, 8, 3], generator=generator).double()


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def specimen(epochs: int = 5, recipe: dict[str, Any] | None = None) -> Specimen:
    training = Training(build, cross_entropy, sgd, batch_size=16, epochs=epochs)
    made = trained("small", DataSplit(*data(), *data(30)), Classification(), training, seed=5)
    assert made.recipe is not None
    made.recipe = replace(made.recipe, **(recipe or {}))
    return made


def reading(made: Specimen, seed: int = 0, pairs: int = 3) -> Reading:
    return measure(Stability(pairs), Workbench.on(made, seed=seed))


def detail(found: Reading, title: str) -> Any:
    [one] = [one for one in found.details if one.title == title]
    return one


def test_numbers_are_those_of_separate_trainings() -> None:
    made = specimen()
    found = reading(made)
    # The same draws as the instrument's, and every twin trained alone.
    generator = Workbench.on(made).generator("stability")
    drawn = torch.randperm(48, generator=generator)
    seeds = torch.randint(2**31, (3,), generator=generator).tolist()
    rows = drawn[:-3].sort().values
    distances, changes = [], []
    for pair in range(3):
        own, other = int(drawn[pair]), int(drawn[-3 + pair])
        twin = rows.clone()
        twin[rows == own] = other
        runs = [train_many(made, [seeds[pair]], rows=some[None]) for some in (rows, twin)]
        w, v = (torch.cat([p.detach().flatten() for p in run.member(0).parameters()]) for run in runs)
        distances.append(float((w - v).norm()))
        loss = [run.losses("train")[0] for run in runs]
        changes.append(float(loss[1][own] - loss[0][own] + loss[0][other] - loss[1][other]) / 2)
    curve = detail(found, "Distance of twins in weights")
    assert isinstance(curve, Curve)
    assert curve.lines[0].x == (3, 6, 9, 12, 15)  # 45 examples in batches of 16
    assert curve.lines[0].y[-1] == pytest.approx(sum(distances) / 3, rel=1e-6)
    assert (curve.lines[0].low[-1], curve.lines[0].high[-1]) == pytest.approx(
        (min(distances), max(distances)), rel=1e-6
    )
    gaps = detail(found, "Generalization gap and stability")
    assert isinstance(gaps, Scalars)
    assert gaps.items[0].value == pytest.approx(sum(changes) / 3, rel=1e-6)
    assert [item.name for item in gaps.items] == [
        "mean change on exchanged examples",
        "measured gap of the same networks",
        "largest gradient norm times distance",
        "theorem for convex losses",
    ]
    assert found.value is not None
    assert found.uncertainty is not None
    assert found.uncertainty.low < found.value < found.uncertainty.high
    assert "one of 45 training examples" in found.headline


def test_the_same_seed_gives_the_same_bits_and_the_network_is_left_alone() -> None:
    made = specimen()
    before = model_state(made.model)
    one, again, other = reading(made), reading(made), reading(made, seed=1)
    assert one.without_cost() == again.without_cost()
    assert one.value != other.value
    assert same_state(before, model_state(made.model))


def test_regression_and_missing_test_data() -> None:
    x, _ = data()
    y = x.sum(1, keepdim=True)
    build_one = lambda *, generator: mlp([4, 8, 1], generator=generator).double()
    training = Training(build_one, squared_error, lambda p: torch.optim.SGD(p, lr=0.01), 16, 4)
    made = trained("line", DataSplit(x, y, x[:8], y[:8]), Regression(), training, seed=0)
    alone = Specimen(made.model, Regression(), (x, y), recipe=made.recipe)
    for one in (made, alone):
        found = reading(one)
        assert found.verdict.level is not Level.ERROR, found.headline
        assert found.value is not None
        assert "disagree" not in found.headline
    names = [item.name for item in detail(found, "Generalization gap and stability").items]
    assert "measured gap of the same networks" not in names


def test_a_single_epoch_has_distances_and_no_exponent() -> None:
    found = reading(specimen(epochs=1))
    assert found.value is None
    assert found.verdict.level is Level.INFORMATIVE
    assert "moves the weights by" in found.headline


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        ({"build": None}, "can train the network again"),
        ({"epochs": None}, "epochs"),
        ({"optimizer": lambda p: torch.optim.SGD(p, lr=1e300)}, "3 of 3 diverged"),
    ],
)
def test_what_it_cannot_do_it_says(recipe: dict[str, Any], reason: str) -> None:
    found = reading(specimen(recipe=recipe))
    assert found.verdict.level is Level.NOT_APPLICABLE
    assert reason in found.verdict.reason


def test_too_few_examples() -> None:
    x, y = data(10)
    made = Specimen(
        build(generator=torch.Generator().manual_seed(0)),
        Classification(),
        (x, y),
        recipe=Recipe(optimizer=sgd, build=build, batch_size=4, epochs=2),
    )
    assert "at least 12 training examples for 3 pairs" in reading(made).verdict.reason


def test_on_average_stability_by_hand() -> None:
    """Pair 0 exchanges example 1 for 2, pair 1 example 0 for 2."""
    losses = torch.tensor([[0.0, 1.0, 5.0], [2.0, 0.0, 4.0]])
    twins = torch.tensor([[0.0, 4.0, 3.0], [6.0, 0.0, 1.0]])
    found = on_average_stability(torch.tensor([[1, 2], [0, 2]]), losses, twins)
    assert found.tolist() == [((4 - 1) + (5 - 3)) / 2, ((6 - 2) + (4 - 1)) / 2]


@pytest.mark.parametrize(
    ("low", "high", "level"),
    [(0.2, 0.9, Level.GOOD), (0.8, 1.2, Level.INFORMATIVE), (1.1, 1.3, Level.ATTENTION)],
)
def test_verdicts(low: float, high: float, level: Level) -> None:
    law = PowerLaw((low + high) / 2, Interval(low, high, 0.95, "Student t"), 1.0, (low, high), 0.0)
    assert judge(law).level is level
    assert judge(None).level is Level.INFORMATIVE


@pytest.mark.parametrize("pairs", [1, 2.5, "3"])
def test_settings(pairs: Any) -> None:
    with pytest.raises(SettingError, match=r"stability\.pairs"):
        Stability(pairs)
