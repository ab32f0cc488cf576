"""Training again: the same run from the same seed, another from another, and what a recipe must say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone import Recipe, Specimen
from torchstone.data.split import DataSplit
from torchstone.errors import NotApplicableError, SpecimenError
from torchstone.objectives import Classification
from torchstone.specimens.networks import mlp
from torchstone.specimens.trained import Training, trained
from torchstone.testing import model_state, same_state
from torchstone.training.evaluation import cross_entropy
from torchstone.workbench.retraining import fresh_optimizer, train_again


def data(count: int = 60) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x, x[:, :3].argmax(1)


def build(*, generator: torch.Generator) -> nn.Module:
    return mlp([4, 8, 3], generator=generator).double()


def specimen(optimizer: Any = None, **recipe: Any) -> Specimen:
    def group_optimizer(parameters: Any) -> torch.optim.Optimizer:
        first, *rest = parameters
        return torch.optim.SGD(
            [{"params": [first], "weight_decay": 0.1}, {"params": rest}], lr=0.1, momentum=0.9
        )

    training = Training(build, cross_entropy, optimizer or group_optimizer, batch_size=16, epochs=3)
    made = trained("small", DataSplit(*data(), *data()), Classification(), training, seed=5)
    assert made.recipe is not None
    made.recipe = replace(made.recipe, **recipe)
    return made


@pytest.mark.parametrize("as_dicts", [False, True])
def test_the_same_seed_repeats_the_training(as_dicts: bool) -> None:
    original = specimen()
    if as_dicts:
        x, y = data()
        batches = [{"input": x[i : i + 7], "labels": y[i : i + 7]} for i in range(0, 60, 7)]
        original = Specimen(original.model, Classification(), batches, recipe=original.recipe)
    before = model_state(original.model)
    again, history = train_again(original, seed=5)
    for own, repeated in zip(original.model.parameters(), again.parameters(), strict=True):
        assert torch.allclose(own, repeated, rtol=1e-9, atol=1e-12)
    assert original.recipe is not None
    assert history["train_loss"] == pytest.approx(original.recipe.history["train_loss"], rel=1e-9)
    assert same_state(before, model_state(original.model))


def test_another_seed_is_another_network_and_the_same_bits_each_time() -> None:
    original = specimen()
    one, other = train_again(original, seed=6)[0], train_again(original, seed=6)[0]
    assert all(map(torch.equal, one.parameters(), other.parameters()))
    assert not torch.equal(next(one.parameters()), next(original.model.parameters()))


def test_schedules_start_from_the_first_learning_rate() -> None:
    cosine = lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12)
    training = Training(build, cross_entropy, lambda p: torch.optim.Adam(p, lr=0.02), 16, 3, schedule=cosine)
    original = trained("small", DataSplit(*data(), *data()), Classification(), training, seed=5)
    assert fresh_optimizer(original, original.model).param_groups[0]["lr"] == 0.02
    again, _ = train_again(original, seed=5)
    for own, repeated in zip(original.model.parameters(), again.parameters(), strict=True):
        assert torch.allclose(own, repeated, rtol=1e-7, atol=1e-10)


def test_a_function_or_a_learning_rate_makes_the_optimizer() -> None:
    made = specimen(optimizer=lambda p: torch.optim.Adam(p, lr=0.3))
    assert isinstance(fresh_optimizer(made, made.model), torch.optim.Adam)
    made.recipe = Recipe(build=build, lr=0.2, momentum=0.5, batch_size=4, epochs=1)
    group = fresh_optimizer(made, made.model).param_groups[0]
    assert (group["lr"], group["momentum"]) == (0.2, 0.5)


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        ({"build": None}, "can train the network again"),
        ({"epochs": None, "batch_size": None}, "says batch_size and epochs to train again"),
        ({"optimizer": None, "lr": None}, "says optimizer or lr"),
        (
            {"optimizer": torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=0.1)},
            "1 parameters that are not the model's",
        ),
    ],
)
def test_a_recipe_that_says_too_little_is_told_what(recipe: dict[str, Any], reason: str) -> None:
    made = specimen()
    assert made.recipe is not None
    made.recipe = replace(made.recipe, **recipe)
    with pytest.raises(NotApplicableError) as caught:
        train_again(made, seed=0)
    assert reason in caught.value.reason


def test_a_builder_of_something_else_is_refused() -> None:
    with pytest.raises(
        SpecimenError, match=r"with the parameters of the examined one; got other 1.bias, 1.weight"
    ):
        train_again(specimen(build=lambda generator: mlp([4, 9, 3], generator=generator)), seed=0)
    with pytest.raises(SpecimenError, match=r"recipe.build\(generator=...\) must make an untrained network"):
        train_again(specimen(build=lambda: None), seed=0)
