"""Two trainings on the digits: far apart on the straight line, joined by a trained curve."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from torchstone import Specimen
from torchstone.data.digits import digits
from torchstone.data.split import DataSplit
from torchstone.details import Scalars, Table
from torchstone.errors import NumericalError
from torchstone.instruments.measurement import measure
from torchstone.instruments.trainability.mode_connectivity import ModeConnectivity, judge
from torchstone.landscape import Largest
from torchstone.objectives import Classification
from torchstone.reading import Level, Reading
from torchstone.specimens.networks import mlp
from torchstone.specimens.trained import Training, trained
from torchstone.testing import model_state, same_state
from torchstone.training.evaluation import cross_entropy
from torchstone.workbench import Workbench


def specimen(build: Any = None, epochs: int = 15) -> Specimen:
    whole = digits(seed=0)
    data = DataSplit(whole.train_x[:700], whole.train_y[:700], whole.test_x[:200], whole.test_y[:200])
    training = Training(
        build or (lambda generator: mlp([64, 64, 32, 10], generator=generator)),
        cross_entropy,
        lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
        batch_size=64,
        epochs=epochs,
    )
    return trained("digits", data, Classification(), training, seed=0)


def barriers(reading: Reading) -> dict[str, float]:
    [found] = [detail for detail in reading.details if isinstance(detail, Scalars)]
    return {item.name.removeprefix("barrier, "): item.value for item in found.items}


def measured(made: Specimen, **settings: Any) -> Reading:
    return measure(ModeConnectivity(**{"points": 11, **settings}), Workbench.on(made))


def test_a_curve_joins_what_the_line_does_not() -> None:
    made = specimen()
    before = model_state(made.model)
    reading = measured(made)
    found = barriers(reading)
    assert found["straight line"] > 0.1
    assert found["trained curve"] <= 0.1 * found["straight line"]
    assert found["line after alignment"] < found["straight line"]
    assert reading.value == found["trained curve"]
    assert reading.verdict.level is Level.GOOD
    assert same_state(before, model_state(made.model))
    [table] = [detail for detail in reading.details if isinstance(detail, Table)]
    assert [(row[0], row[1]) for row in table.rows] == [
        (path, split)
        for path in ("straight line", "line after alignment", "trained curve")
        for split in ("train", "test")
    ]


def test_the_same_seed_gives_the_same_reading_and_never_the_network_itself() -> None:
    made = specimen(epochs=3)
    assert measured(made, epochs=2.0).without_cost() == measured(made, epochs=2.0).without_cost()
    assert made.recipe is not None
    made.recipe = replace(made.recipe, seed=1)
    assert measured(made, epochs=1.0).notes[0] == "The second network was trained with seed 2."


def test_normalised_and_residual_networks() -> None:
    class Residual(nn.Module):
        def __init__(self, generator: torch.Generator) -> None:
            super().__init__()
            self.first = mlp([64, 16], generator=generator)
            self.norm = nn.BatchNorm1d(16)
            self.last = mlp([16, 10], generator=generator)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.first(x)
            return self.last(h + torch.relu(self.norm(h)) * torch.linspace(0, 1, 16))

    reading = measured(specimen(lambda generator: Residual(generator), epochs=3), epochs=3.0)
    assert any(note.startswith("No alignment: ") for note in reading.notes)
    assert any("made anew at every point" in note for note in reading.notes)
    assert set(barriers(reading)) == {"straight line", "trained curve"}


def test_a_curve_that_diverges_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def diverging(*_arguments: Any) -> None:
        raise NumericalError("The loss must stay finite", "inf", "Lower the learning rate.")

    monkeypatch.setattr("torchstone.instruments.trainability.mode_connectivity.train_bend", diverging)
    reading = measured(specimen(epochs=3))
    assert any(note.startswith("No curve: The loss must stay finite") for note in reading.notes)
    assert set(barriers(reading)) == {"straight line", "line after alignment"}
    assert (reading.verdict.level, reading.verdict.reason) == (Level.ATTENTION, "no curve could be trained")


def test_without_a_builder_it_does_not_apply() -> None:
    made = specimen(epochs=1)
    assert made.recipe is not None
    made.recipe = replace(made.recipe, build=None)
    assert measured(made).verdict.level is Level.NOT_APPLICABLE
    made.recipe = replace(made.recipe, build=mlp, epochs=None)
    reading = measured(made)
    assert reading.verdict.level is Level.NOT_APPLICABLE
    assert "says epochs" in reading.verdict.reason


@pytest.mark.parametrize(
    ("line", "curve", "level"),
    [
        (Largest(0.0, 0.0, 0.1, -1), Largest(0.5, 0.4, 0.6, 1), Level.GOOD),
        (Largest(1.0, 0.9, 1.1, 1), Largest(0.09, 0.08, 0.1, 1), Level.GOOD),
        (Largest(1.0, 0.9, 1.1, 1), Largest(0.5, 0.0, 1.0, 1), Level.GOOD),
        (Largest(1.0, 0.9, 1.1, 1), Largest(0.5, 0.4, 0.6, 1), Level.ATTENTION),
        (Largest(1.0, 0.9, 1.1, 1), None, Level.ATTENTION),
    ],
)
def test_the_verdict(line: Largest, curve: Largest | None, level: Level) -> None:
    assert judge(line, curve, 0.1).level is level
