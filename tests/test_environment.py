"""What identifies an examination: anything that could change a reading changes the fingerprint, and nothing else does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from torchstone.environment import environment, fingerprint, specimen_card
from torchstone.objectives import Classification
from torchstone.plan import Plan
from torchstone.recipe import Recipe
from torchstone.serialise import to_plain
from torchstone.specimen import Specimen

PLAN = Plan.named("quick")


def network() -> Any:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def data() -> tuple[Tensor, Tensor]:
    return torch.arange(24.0).reshape(6, 4), torch.arange(6) % 2


def specimen(model: Any = None, objective: Any = None, train: Any = None, **options: Any) -> Specimen:
    model = network() if model is None else model
    return Specimen(model, objective or Classification(), train or data(), **options)


def identity(one: Specimen, plan: Plan = PLAN, seed: int = 0) -> str:
    return fingerprint(one.prepared(), plan, seed)


def adam(lr: float, steps: int) -> torch.optim.Optimizer:
    parameter = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.Adam([parameter], lr=lr)
    for _ in range(steps):
        parameter.grad = torch.ones(2)
        optimizer.step()
    return optimizer


def changed(change: Callable[[Any], Any]) -> Specimen:
    model = network()
    with torch.no_grad():
        change(model)
    return specimen(model)


def other_data(change: Callable[[Tensor, Tensor], Any]) -> Specimen:
    x, y = data()
    change(x, y)
    return specimen(train=(x, y))


OTHERS: dict[str, Callable[[], Specimen]] = {
    "one weight, one bit": lambda: changed(lambda model: model[0].weight[0, 0].mul_(1 + 1e-7)),
    "a buffer": lambda: changed(lambda model: model[1].running_mean.add_(1)),
    "a frozen layer": lambda: changed(lambda model: model[0].requires_grad_(False)),
    "one pixel": lambda: other_data(lambda x, _: x[3, 2].add_(1)),
    "one label": lambda: other_data(lambda _, y: y[5].fill_(0)),
    "test data": lambda: specimen(test=data()),
    "shifted data": lambda: specimen(shifted=data()),
    "name": lambda: specimen(name="other"),
    "mode": lambda: specimen(mode="as_is"),
    "objective": lambda: specimen(objective=Classification(label_smoothing=0.1)),
    "class names": lambda: specimen(objective=Classification(("a", "b"))),
    "learning rate": lambda: specimen(recipe=Recipe(lr=0.1)),
    "another learning rate": lambda: specimen(recipe=Recipe(lr=0.2)),
    "optimizer": lambda: specimen(recipe=Recipe(optimizer=adam(0.1, 1))),
    "optimizer's state": lambda: specimen(recipe=Recipe(optimizer=adam(0.1, 2))),
    "history": lambda: specimen(recipe=Recipe(history={"train_loss": [1.0, 0.5]})),
    "initial weights": lambda: specimen(recipe=Recipe(initial_state={"0.weight": torch.zeros(3, 4)})),
    "other initial weights": lambda: specimen(recipe=Recipe(initial_state={"0.weight": torch.ones(3, 4)})),
}


def test_whatever_could_change_a_reading_changes_the_fingerprint() -> None:
    found = {name: identity(make()) for name, make in OTHERS.items()}
    found |= {"nothing": identity(specimen()), "seed": identity(specimen(), seed=1)}
    found["plan"] = identity(specimen(), Plan.named("deep"))
    assert len(set(found.values())) == len(found)


@pytest.mark.parametrize("name", ["one label", "optimizer's state", "other initial weights", "mode"])
def test_the_same_specimen_made_again_is_the_same(name: str) -> None:
    assert identity(OTHERS[name]()) == identity(OTHERS[name]())


def test_modes_count_only_where_they_are_measured() -> None:
    model = network()
    trained = [identity(specimen(model.train(), mode=mode)) for mode in ("eval", "as_is")]
    evaluated = [identity(specimen(model.eval(), mode=mode)) for mode in ("eval", "as_is")]
    assert trained[0] == evaluated[0]
    assert trained[1] != evaluated[1]


def test_a_stream_is_known_by_its_first_batch_and_size() -> None:
    loader = DataLoader(TensorDataset(*data()), batch_size=2)
    streamed = specimen(train=loader).prepared(memory_bytes=1)
    assert not streamed.split("train").stored
    assert fingerprint(streamed, PLAN, 0) == fingerprint(streamed, PLAN, 0)


def test_the_card() -> None:
    model = network()
    model[2].weight.requires_grad_(False)
    card = specimen_card(specimen(model, Classification(("cat", "dog")), test=data(), recipe=Recipe(lr=0.1)))
    assert (card.parameters, card.trainable, card.layers) == (15 + 6 + 8, 15 + 6 + 2, 3)
    assert (card.train_examples, card.test_examples) == (6, 6)
    assert card.class_names == ("cat", "dog")
    assert (card.model, card.name, card.task) == ("Sequential", "Sequential", "classification")
    assert (card.device, card.dtype, card.recipe) == ("cpu", "float32", {"learning rate": 0.1})


def test_shared_parameters_count_once_and_nothing_is_something() -> None:
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    assert specimen_card(specimen(tied)).parameters == 16 + 8
    empty = specimen_card(specimen(nn.Flatten()))
    assert (empty.parameters, empty.dtype, empty.test_examples, empty.layers) == (0, "none", None, 1)


def test_the_environment_can_be_written() -> None:
    found = environment(torch.device("cpu"))
    assert all(isinstance(value, str | int) for value in to_plain(found).values())
    assert found.torch == str(torch.__version__)
    assert (found.accelerator, found.threads) == ("", torch.get_num_threads())
