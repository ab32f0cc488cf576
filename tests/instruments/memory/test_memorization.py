"""Leave-out memorisation as an instrument: planted label noise is found, refusals, settings, error bar."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone import Specimen
from torchstone.data.digits import digits as digits_data
from torchstone.data.split import DataSplit
from torchstone.details import Histogram, Images, Scalars, Table
from torchstone.errors import SettingError
from torchstone.instruments.measurement import measure
from torchstone.instruments.memory.memorization import Memorization, judge, over_networks
from torchstone.objectives import Classification
from torchstone.reading import Level, Reading
from torchstone.specimens import digits
from torchstone.specimens.networks import mlp
from torchstone.specimens.trained import Training, trained
from torchstone.testing import model_state, same_state
from torchstone.training.evaluation import cross_entropy
from torchstone.training.memorization import balanced_subsets, memorization
from torchstone.workbench import Workbench
from torchstone.workbench.ensembles import subset_ensemble


def build(*, generator: torch.Generator) -> nn.Module:
    return mlp([4, 32, 3], generator=generator)


def small(lr: float = 0.3, **recipe: Any) -> Specimen:
    """60 training points of three classes; the first six labels are wrong."""
    x = torch.randn(90, 4, generator=torch.Generator().manual_seed(0))
    y = x[:, :3].argmax(1)
    noisy = y[:60].clone()
    noisy[:6] = (noisy[:6] + 1) % 3
    training = Training(build, cross_entropy, lambda p: torch.optim.SGD(p, lr=0.3, momentum=0.9), 16, 25)
    made = trained("small", DataSplit(x[:60], noisy, x[60:], y[60:]), Classification(), training, seed=5)
    assert made.recipe is not None
    if lr != 0.3:
        recipe["optimizer"] = lambda p: torch.optim.SGD(p, lr=lr)
    made.recipe = replace(made.recipe, **recipe)
    return made


def reading(made: Specimen, members: int = 12, seed: int = 0) -> Reading:
    return measure(Memorization(members), Workbench.on(made, seed=seed))


def test_planted_label_noise_on_digits_has_the_highest_scores() -> None:
    """Area under the curve of the score as a detector of the 10% flipped labels, ties counted half."""
    made = digits.build(label_noise=0.1, epochs=1)
    assert made.recipe is not None
    made.recipe = replace(made.recipe, epochs=14)  # of the specimen's own network only the data matter here
    bench = Workbench.on(made)
    found = measure(Memorization(5), bench)
    assert found.verdict.level is Level.ATTENTION
    flipped = torch.zeros(1400, dtype=torch.bool)
    flipped[digits_data(label_noise=0.1).flipped] = True
    ensemble = subset_ensemble(bench, 5, 0.7)
    score = memorization(1 - ensemble.siblings.errors("train"), ensemble.included).score
    assert found.value == pytest.approx(float(score.mean()))
    wrong, right = score[flipped][:, None], score[~flipped]
    area = ((wrong > right).double() + 0.5 * (wrong == right).double()).mean()
    assert float(area) >= 0.9
    table = next(one for one in found.details if isinstance(one, Table))
    assert len({row[0] for row in table.rows} & set(flipped.nonzero()[:, 0].tolist())) > 10
    pictures = [one for one in found.details if isinstance(one, Images)]
    assert [one.title for one in pictures] == ["Most memorised examples", "Most influential pairs"]


def test_details_and_the_same_bits_again() -> None:
    made = small()
    before = model_state(made.model)
    found, again, other = reading(made), reading(made), reading(made, seed=1)
    assert found.without_cost() == again.without_cost()
    assert found.value != other.value
    assert same_state(before, model_state(made.model))
    table, pairs = (one for one in found.details if isinstance(one, Table))
    assert [row[2] for row in table.rows] == sorted((row[2] for row in table.rows), reverse=True)  # type: ignore[type-var]
    assert {row[0] for row in table.rows[:6]} & set(range(6))
    assert all(float(row[4] or 0) >= 0 and float(row[5] or 0) > 0 for row in pairs.rows)
    [histogram] = [one for one in found.details if isinstance(one, Histogram)]
    assert sum(histogram.groups[0].counts) == pytest.approx(100)
    [chance] = [one for one in found.details if isinstance(one, Scalars)]
    assert chance.items[0].value >= 1
    assert found.notes[0].startswith("12 trainings by the recipe on 42 examples each")
    assert found.uncertainty is not None
    assert found.value is not None
    assert found.uncertainty.low < found.value < found.uncertainty.high


def test_without_test_data_there_is_no_influence() -> None:
    made = small()
    alone = Specimen(made.model, Classification(), (made_data(made)), recipe=made.recipe)
    found = reading(alone)
    assert found.value is not None
    assert not any("influential" in one.title for one in found.details)


def made_data(made: Specimen) -> tuple[Tensor, Tensor]:
    [batch] = list(made.batches("train", torch.arange(60)))
    return batch[0], batch[1]


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [({"build": None}, "can train the network again"), ({"lr": 1e30}, "diverged")],
)
def test_what_it_cannot_do_it_says(recipe: dict[str, Any], reason: str) -> None:
    found = reading(small(**recipe), members=4)
    assert found.verdict.level is Level.NOT_APPLICABLE
    assert reason in found.verdict.reason


def test_the_jackknife_covers_the_mean_score() -> None:
    """Networks of varying skill: the share of right answers outside of its subset differs between networks."""
    covered, trials, generator = 0, 200, torch.Generator().manual_seed(0)
    for _ in range(trials):
        included = torch.zeros(16, 60, dtype=torch.bool)
        included.scatter_(1, balanced_subsets(60, 16, 0.7, generator), True)
        skill = 0.6 + 0.1 * torch.randn(16, 1, generator=generator)
        correct = torch.where(included, 1.0, (torch.rand(16, 60, generator=generator) < skill).float())
        found = over_networks(correct, included)
        assert found is not None
        covered += found.low <= 0.4 <= found.high
    assert 0.904 <= covered / trials <= 0.996  # 95% within three standard errors


def test_verdicts() -> None:
    assert judge(0.09, 0.051).level is Level.ATTENTION
    assert judge(0.09, 0.05).level is Level.INFORMATIVE


@pytest.mark.parametrize(
    ("name", "value"), [("members", 3), ("members", 2.0), ("share", 0.99), ("share", "x")]
)
def test_settings(name: str, value: Any) -> None:
    with pytest.raises(SettingError, match=rf"memorization\.{name}"):
        Memorization(**{name: value})
