"""What a recipe accepts, and how it is shown."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from torchstone.errors import SettingError
from torchstone.recipe import Recipe
from torchstone.serialise import to_plain


def optimizer(lr: Any = 0.3, momentum: float = 0.8) -> torch.optim.SGD:
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr, momentum=momentum)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"lr": 0.0}, "lr must be positive; got 0.0"),
        ({"lr": -1}, "lr must be positive"),
        ({"lr": math.nan}, "lr must be a finite number"),
        ({"lr": math.inf}, "lr must be a finite number"),
        ({"lr": "0.1"}, "lr must be a finite number; got '0.1'"),
        ({"lr": [0.1, 0.2]}, "lr must be a finite number"),
        ({"lr": torch.tensor([0.1, 0.2])}, "lr must be a finite number"),
        ({"momentum": 1.0}, r"momentum must lie in \[0, 1\)"),
        ({"momentum": True}, "momentum must be a finite number"),
        ({"history": {"train_loss": [1.0], "test_loss": [1.0, 2.0]}}, "one value an epoch"),
        ({"optimizer": "sgd"}, "makes one; got str"),
        (
            {"trajectory": [{}, {}], "trajectory_steps": [1]},
            "one number for each state of the trajectory; got 1 for 2",
        ),
        ({"batch_size": 0}, "batch_size must be a whole number"),
        ({"epochs": 2.5}, "epochs must be a whole number"),
        ({"epochs": -1}, "epochs must be a whole number"),
        ({"seed": 1.5}, "seed must be a whole number; got 1.5"),
        ({"seed": "a"}, "seed must be a whole number; got 'a'"),
        ({"build": 3}, "build must be a function"),
        ({"schedule": "cosine"}, "schedule must be a function"),
        ({"penalty": 0.1}, "penalty must be a function"),
    ],
)
def test_what_is_no_recipe(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        Recipe(**arguments)


def test_a_live_optimizer_says_what_it_is() -> None:
    recipe = Recipe(optimizer=optimizer())
    assert (recipe.learning_rates, recipe.heavy_ball, recipe.optimizer_name) == ((0.3,), 0.8, "SGD")
    assert Recipe(optimizer=optimizer(torch.tensor(0.25))).learning_rates == (0.25,)
    assert Recipe(optimizer=optimizer(), lr=0.1, momentum=0.0).learning_rates == (0.1,)
    assert Recipe(optimizer=optimizer(), momentum=0.0).heavy_ball == 0
    groups = torch.optim.Adam([{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (0.1, 0.2)])
    assert Recipe(optimizer=groups).learning_rates == (0.1, 0.2)
    assert Recipe(optimizer=groups).heavy_ball == 0


def test_an_optimizer_yet_to_be_made_says_nothing() -> None:
    recipe = Recipe(optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    assert (recipe.live_optimizer, recipe.learning_rates, recipe.optimizer_name) == (None, (), "")
    assert Recipe(optimizer=torch.optim.Adam).learning_rates == ()


@pytest.mark.parametrize("lr", [1, np.float32(0.5), torch.tensor(0.5), torch.tensor([0.5])])
def test_scalars_of_any_library_become_floats(lr: Any) -> None:
    assert type(Recipe(lr=lr).lr) is float


def test_the_card_can_always_be_written() -> None:
    notes: Any = {
        "tensor": torch.tensor(2.0), "count": np.int64(3), "path": Path("a"), "nan": float("nan"), "list": [1],
        "none": None, "text": "x", "flag": np.bool_(True),
    }  # fmt: skip
    card = Recipe(lr=0.1, epochs=np.int64(4), batch_size=8, seed=0, notes=notes).card()  # pyright: ignore[reportArgumentType]
    assert card["tensor"] == 2.0
    assert (card["count"], card["epochs"], card["seed"], card["flag"]) == (3, 4, 0, True)
    assert (card["path"], card["list"]) == ("a", "[1]")
    assert math.isnan(card["nan"])  # pyright: ignore[reportArgumentType]
    assert "none" not in card
    json.dumps(to_plain(card), allow_nan=False)
