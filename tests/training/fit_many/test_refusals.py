"""Settings that many trainings at once cannot have are refused in words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone.errors import ObjectiveError, SettingError

Changed = Callable[[Any], dict[str, Any]]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda _: {"models": []}, "at least one network"),
        (lambda m: {"models": [m.network(0), m.network(1, nn.LayerNorm(16))]}, "one architecture"),
        (lambda m: {"models": [m.network(0), m.network(1).double()]}, "one architecture"),
        (lambda _: {"generators": [torch.Generator()]}, "one generator for each"),
        (lambda _: {"batch_size": 0}, "batch_size"),
        (lambda _: {"batch_size": 2.5}, "batch_size"),
        (lambda _: {"memory_budget": 0}, "memory_budget"),
        (lambda _: {"epochs": None}, "epochs or steps"),
        (lambda _: {"batch_size": True}, "batch_size"),
        (lambda _: {"memory_budget": "1G"}, "memory_budget"),
        (lambda _: {"memory_budget": float("nan")}, "memory_budget"),
        (lambda _: {"rows": [torch.arange(3)]}, "rows needs"),
        (lambda _: {"rows": 3}, "rows needs.*got 3"),
        (lambda _: {"rows": "ab"}, "rows needs"),
        (lambda _: {"targets": [1, 2]}, "targets must have shape"),
        (lambda _: {"lr_factors": "ab"}, "lr_factors.*got 'ab'"),
        (lambda _: {"lr_factors": [[1.0], [2.0, 3.0]]}, "lr_factors"),
        (lambda _: {"on_epoch": lambda _: 5}, "values by name, or None; got 5"),
        (
            lambda _: {"on_epoch": lambda _: {"error": 0.5}},
            "one number for each of 2 members.*got error: 0.5",
        ),
        (lambda _: {"rows": [torch.arange(3), torch.tensor([75])]}, "0..74"),
        (lambda _: {"rows": [torch.arange(3), torch.ones(75, dtype=torch.bool)]}, "member 1"),
        (lambda _: {"rows": [torch.arange(3), torch.arange(0)]}, "member 1"),
        (lambda _: {"targets": torch.zeros(2, 74)}, "targets must have shape"),
        (lambda _: {"inputs": torch.zeros(75, 6)}, "inputs must have shape"),
        (lambda _: {"lr_factors": [1.0]}, "lr_factors"),
        (lambda _: {"lr_factors": [1.0, -1.0]}, "lr_factors"),
        (lambda _: {"weight_decay": [1.0, float("nan")]}, "weight_decay"),
        (lambda _: {"y": torch.zeros(3, dtype=torch.long)}, "same number of examples"),
        (
            lambda _: {
                "weight_decay": [0.1, 0.2],
                "optimizer": lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.1),
            },
            "own must be 0",
        ),
        (lambda _: {"lr_factors": [1.0, 0.2], "optimizer": lambda p: torch.optim.Rprop(p)}, "proportional"),
        (lambda _: {"on_epoch": lambda _: {"error": torch.zeros(())}}, "one number for each of 2"),
        (lambda _: {"scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau}, "number of updates"),
        (lambda _: {"x": [[0.0] * 6] * 75}, "must be tensors"),
        (
            lambda m: {"optimizer": torch.optim.SGD(m.network(0).parameters(), lr=0.1)},
            "function of the parameters",
        ),
    ],
)
def test_mistakes_get_words(changed: Changed, message: str, members: Any) -> None:
    given = {"models": members.networks(2), "epochs": 1, **changed(members)}
    with pytest.raises(SettingError, match=message):
        members.together(**given)


def test_a_single_example_left_over_for_batch_normalisation_is_told_in_words(members: Any) -> None:
    models = [members.network(k, nn.BatchNorm1d(16)) for k in range(2)]
    with pytest.raises(ObjectiveError, match="failed on 1 example at step 3"):
        members.together(models, x=members.x[:33], y=members.y[:33], epochs=1)


def test_a_loss_that_is_already_averaged_is_refused(members: Any) -> None:
    mean = lambda model, x, y: nn.functional.cross_entropy(model(x), y)
    with pytest.raises(ObjectiveError, match="one number per example"):
        members.together(members.networks(2), losses=mean, epochs=1)


def test_a_penalty_that_is_not_one_number_is_refused(members: Any) -> None:
    several = lambda model: next(model.parameters())
    for train in (
        lambda: members.together(members.networks(2), penalty=several, epochs=1),
        lambda: members.alone(members.network(0), 0, penalty=several, epochs=1),
    ):
        with pytest.raises(
            ObjectiveError, match=r"penalty\(model\) must return one number; got shape \(16, 6\)"
        ):
            train()


@pytest.mark.parametrize(
    ("told", "message"),
    [(5, "values by name, or None; got 5"), ({"error": torch.ones(3)}, "numbers by name; got error")],
)
def test_what_a_callback_of_one_training_returns_wrongly(told: Any, message: str, members: Any) -> None:
    with pytest.raises(SettingError, match=message):
        members.alone(members.network(0), 0, epochs=1, on_epoch=lambda _: told)


@pytest.mark.parametrize("way", ["together", "one by one"])
def test_weight_decay_where_the_optimizer_has_none(way: str, members: Any) -> None:
    """Rprop goes by the signs of gradients alone."""
    models = members.networks(2)
    if way == "one by one":
        models = [nn.Sequential(nn.GRU(6, 3), Last()) for _ in range(2)]
    with pytest.raises(SettingError, match="an optimizer that has weight decay; got Rprop"):
        members.together(models, optimizer=torch.optim.Rprop, epochs=1, weight_decay=[0.1, 0.2])


class Last(nn.Module):
    """What a recurrent layer gives first."""

    def forward(self, pair: tuple[Tensor, Tensor]) -> Tensor:
        return pair[0]
