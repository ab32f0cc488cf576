"""Random labels by a recipe: fitted by a wide network, not by a linear one; against separate trainings; refusals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from torchstone import Specimen
from torchstone.data.split import DataSplit
from torchstone.details import Curve, Histogram, Table
from torchstone.errors import SettingError
from torchstone.instruments.measurement import measure
from torchstone.instruments.memory.random_label_capacity import RandomLabelCapacity, judge
from torchstone.objectives import Classification
from torchstone.reading import Level, Reading
from torchstone.specimens.networks import mlp
from torchstone.specimens.trained import Training, trained
from torchstone.testing import model_state, same_state
from torchstone.training.evaluation import cross_entropy
from torchstone.training.fit import fit
from torchstone.training.random_labels import random_labels
from torchstone.workbench import Workbench

COUNT = 40


def wide(*, generator: torch.Generator) -> nn.Module:
    return mlp([5, 128, 3], generator=generator).double()


def linear(*, generator: torch.Generator) -> nn.Module:
    return mlp([5, 3], generator=generator).double()


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.02)


def specimen(build: Any = wide, epochs: int = 25, tests: bool = True) -> Specimen:
    x = torch.randn(COUNT + 30, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = x[:, :3].argmax(1)
    training = Training(build, cross_entropy, adam, batch_size=10, epochs=epochs)
    made = trained(
        "small", DataSplit(x[:COUNT], y[:COUNT], x[COUNT:], y[COUNT:]), Classification(), training, 5
    )
    if not tests:
        return Specimen(made.model, Classification(), (x[:COUNT], y[:COUNT]), recipe=made.recipe)
    return made


def reading(made: Specimen, seed: int = 0, **settings: int) -> Reading:
    return measure(RandomLabelCapacity(**{"draws": 2, **settings}), Workbench.on(made, seed=seed))


def detail(found: Reading, kind: type) -> Any:
    return next(one for one in found.details if isinstance(one, kind))


def test_a_wide_network_fits_random_labels_later_and_with_smaller_margins() -> None:
    found = reading(specimen())
    assert found.value is not None
    assert found.value > 0.95
    assert found.uncertainty is not None
    assert 0.5 < found.uncertainty.low < found.value
    true, random = detail(found, Table).rows
    assert true[1] == 1.0
    assert true[2] > 0.7
    assert random[2] < 0.6  # chance is 1/3
    assert true[4] < random[4]  # epochs to 90%
    course = detail(found, Curve)
    assert [line.name for line in course.lines] == ["true labels", "random labels"]
    assert len(course.lines[0].x) == 50
    margins = detail(found, Histogram)
    centres = torch.tensor(margins.edges).unfold(0, 2, 1).mean(1)
    means = [float((torch.tensor(group.counts) * centres).sum() / 100) for group in margins.groups]
    assert means[0] > 2 * means[1] > 0
    assert margins.x.label == "margin over spectral complexity and data norm"


def test_a_linear_classifier_has_not_the_capacity() -> None:
    found = reading(specimen(linear), stretch=1)
    assert found.value is not None
    assert found.value < 0.7
    assert "not mostly fitted" in found.verdict.reason


def test_the_value_is_that_of_separate_trainings() -> None:
    made = specimen(epochs=3)
    found = reading(made, stretch=2)
    generator = Workbench.on(made).generator("random_label_capacity")
    labels = random_labels(COUNT, 3, 2, generator)
    seeds = torch.randint(2**31, (2,), generator=generator).tolist()
    [(x, _)] = list(made.batches("train", torch.arange(COUNT)))
    accuracies = []
    for k, seed in enumerate(seeds):
        own = torch.Generator().manual_seed(seed)
        model = wide(generator=own)
        fit(model, cross_entropy, x, labels[k], optimizer=adam, batch_size=10, epochs=6, generator=own)
        accuracies.append(float((model(x).argmax(1) == labels[k]).double().mean()))
    assert found.value == pytest.approx((3 * sum(accuracies) / 2 - 1) / 2)
    assert "4 trainings of 6 epochs" in found.notes[0]


def test_the_same_bits_again_and_the_network_is_left_alone() -> None:
    made = specimen(epochs=2)
    before = model_state(made.model)
    one, again, other = reading(made), reading(made), reading(made, seed=1)
    assert one.without_cost() == again.without_cost()
    assert one.details != other.details
    assert same_state(before, model_state(made.model))


def test_without_test_data_and_for_networks_that_are_no_chain() -> None:
    class Skipping(nn.Module):
        def __init__(self, generator: torch.Generator) -> None:
            super().__init__()
            self.first, self.last = wide(generator=generator), linear(generator=generator)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.first(x) * self.last(x)

    found = reading(specimen(lambda *, generator: Skipping(generator), epochs=2, tests=False))
    assert found.verdict.level is Level.INFORMATIVE, found.headline
    assert detail(found, Table).rows[0][2] is None
    assert detail(found, Histogram).x.label == "margin over the spread of the scores"


def test_a_schedule_is_not_stretched() -> None:
    made = specimen(epochs=3)
    assert made.recipe is not None
    made.recipe = replace(made.recipe, schedule=lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 12))
    assert "of 3 epochs" in reading(made).notes[0]


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        ({"build": None}, "can train the network again"),
        ({"optimizer": lambda p: torch.optim.SGD(p, lr=1e300)}, "diverged"),
    ],
)
def test_what_it_cannot_do_it_says(recipe: dict[str, Any], reason: str) -> None:
    made = specimen(epochs=2)
    assert made.recipe is not None
    made.recipe = replace(made.recipe, **recipe)
    found = reading(made)
    assert found.verdict.level is Level.NOT_APPLICABLE
    assert reason in found.verdict.reason


def test_verdicts_and_settings() -> None:
    assert "vacuous" in judge(0.5).reason
    assert "not mostly fitted" in judge(0.49).reason
    for name in ("draws", "stretch"):
        with pytest.raises(SettingError, match=rf"random_label_capacity\.{name}"):
            RandomLabelCapacity(**{name: 0})
