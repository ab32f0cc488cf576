"""Optimisers, schedules and generators of users: those that work, and what is said of those that do not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from torchstone.errors import SettingError
from torchstone.training.dp_sgd import fit_privately
from torchstone.training.evaluation import cross_entropy
from torchstone.training.fit import fit
from torchstone.training.fit_many import fit_many
from torchstone.training.optimizers import fuse, made_optimizer, scheduled, take_step

X = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(12) % 3


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def alone(**changes: Any) -> Any:
    settings: dict[str, Any] = {"optimizer": sgd, "generator": torch.Generator(), "batch_size": 4, "steps": 2}
    return fit(network(), cross_entropy, X, Y, **(settings | changes))


def many(**changes: Any) -> Any:
    generators = [torch.Generator(), torch.Generator()]
    settings: dict[str, Any] = {"optimizer": sgd, "generators": generators, "batch_size": 4, "steps": 2}
    return fit_many([network(), network()], cross_entropy, X, Y, **(settings | changes))


@pytest.mark.parametrize("train", [alone, many])
@pytest.mark.parametrize(
    ("optimizer", "words"),
    [
        (lambda parameters: torch.optim.Muon(parameters, lr=0.1), r"a function of the parameters.*Muon only supports 2D"),
        (lambda parameters: torch.optim.AdamW(parameters, lr=-1), "got ValueError: Invalid learning rate: -1"),
        (lambda _: {}[0], "got KeyError"),
        (lambda _: None, "got a function that makes NoneType"),
        ("adam", "optimizer must be.* a function of the parameters.*got str"),
        (
            lambda parameters: torch.optim.SparseAdam(list(parameters)),
            "able to take a step of these parameters; got SparseAdam, which says: SparseAdam does not support dense",
        ),
    ],
)  # fmt: skip
def test_optimisers_that_fail_are_told(train: Any, optimizer: Any, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        train(optimizer=optimizer)


def test_an_optimiser_of_its_own_parameters_cannot_train_many() -> None:
    with pytest.raises(SettingError, match=r"a function of the parameters.*got SGD"):
        many(optimizer=sgd(network().parameters()))


@pytest.mark.parametrize(
    ("scheduler", "words"),
    [
        (3, "scheduler must be a schedule, or a function.*got int"),
        (lambda _: 0.1, "got a function that makes float"),
        (lambda _: int("half"), "got ValueError.*half"),
        (torch.optim.lr_scheduler.ReduceLROnPlateau, "a function of the number of updates; got ReduceLROnPlateau"),
    ],
)  # fmt: skip
def test_schedules_that_fail_are_told(scheduler: Any, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        scheduled(scheduler, sgd(network().parameters()))


def test_what_works_is_passed_on() -> None:
    optimizer = sgd(network().parameters())
    assert made_optimizer(optimizer, []) is optimizer
    made = made_optimizer(sgd, network().parameters())
    assert isinstance(made, torch.optim.SGD)
    take_step(made)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    assert scheduled(schedule, optimizer) is schedule
    assert scheduled(None, optimizer) is None


@pytest.mark.parametrize("generator", [None, 3, 1.5])
def test_randomness_needs_a_generator(generator: Any) -> None:
    words = "generator must be a torch.Generator on the CPU; got"
    with pytest.raises(SettingError, match=words):
        alone(generator=generator)
    with pytest.raises(SettingError, match=words):
        many(generators=[generator, torch.Generator()])
    with pytest.raises(SettingError, match=words):
        fit_privately(network(), cross_entropy, X, Y, optimizer=sgd, batch_size=4, steps=1, clip=1.0, noise=1.0, generator=generator)  # fmt: skip


def test_as_many_generators_as_networks() -> None:
    for generators, words in ((None, "got no generators"), ([torch.Generator()], "got 1 generators")):
        with pytest.raises(SettingError, match=words):
            many(generators=generators)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize(
    ("chosen", "fused"),
    [
        ({}, True),
        ({"foreach": False}, None),
        ({"foreach": True}, None),
        ({"fused": False}, False),
        ({"differentiable": True}, None),
        ({"lr": torch.tensor(0.1)}, None),
    ],
)
def test_an_update_is_fused_where_the_user_chose_nothing(kind: Any, chosen: Any, fused: bool | None) -> None:
    optimizer = fuse(kind([torch.zeros(2, requires_grad=True)], **({"lr": 0.1} | chosen)))
    assert optimizer.param_groups[0]["fused"] is fused


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.complex64])
def test_other_types_are_not_fused(dtype: torch.dtype) -> None:
    optimizer = fuse(torch.optim.Adam([torch.zeros(2, dtype=dtype, requires_grad=True)], lr=0.1))
    assert optimizer.param_groups[0]["fused"] is None
