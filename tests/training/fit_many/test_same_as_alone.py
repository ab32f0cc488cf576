"""Settings in which a stack of networks could easily move otherwise than each of them alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from torchstone.training.evaluation import cross_entropy
from torchstone.training.fit_many import TrainedMany
from torchstone.training.member_steps import for_one_member

K = 3
FACTORS, DECAYS = [1.0, 0.5, 2.0], [0.0, 0.1, 0.2]


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def assert_as_alone(members: Any, run: TrainedMany, models: list[nn.Module], **settings: Any) -> None:
    optimizer = settings.pop("optimizer", sgd)
    factors, decays = settings.pop("lr_factors", [1.0] * K), settings.pop("weight_decay", [None] * K)
    for k, model in enumerate(models):
        alone = copy.deepcopy(model)
        own = for_one_member(optimizer, factors[k], decays[k])
        history = members.alone(alone, k, epochs=2, optimizer=own, **settings)
        members.assert_same(run, k, alone)
        assert run.series["train_loss"][k].tolist() == pytest.approx(history["train_loss"], rel=1e-5)


@pytest.mark.parametrize("name", ["SGD", "Adam", "RMSprop", "NAdam", "AdamW"])
def test_own_weight_decay_shrinks_where_the_loss_is_to_grow(name: str, members: Any) -> None:
    settings: dict[str, Any] = {
        "optimizer": lambda p: getattr(torch.optim, name)(p, lr=0.003, maximize=True, weight_decay=0.0),
        "losses": lambda model, x, y: -cross_entropy(model, x, y),
        "weight_decay": DECAYS,
    }
    models = members.networks(K)
    run = members.together(models, epochs=2, **settings)
    assert run.way == "batched"
    assert_as_alone(members, run, models, **settings)


def test_groups_by_dimensions_are_a_networks_own(members: Any) -> None:
    """Decay on matrices alone: a stack of biases looks like a matrix."""

    def grouped(parameters: Any) -> torch.optim.Optimizer:
        every = list(parameters)
        matrices, vectors = [p for p in every if p.ndim > 1], [p for p in every if p.ndim <= 1]
        return torch.optim.AdamW(
            [{"params": matrices, "weight_decay": 0.5}, {"params": vectors, "weight_decay": 0.0}], lr=0.01
        )

    models = members.networks(K)
    run = members.together(models, epochs=2, optimizer=grouped)
    assert run.reason == "the optimizer sorts stacked parameters into other groups than a network's own"
    assert_as_alone(members, run, models, optimizer=grouped)


def test_groups_by_place_are_trained_as_one(members: Any) -> None:
    def grouped(parameters: Any) -> torch.optim.Optimizer:
        first, *others = parameters
        return torch.optim.SGD([{"params": [first], "lr": 0.2}, {"params": others}], lr=0.01, momentum=0.9)

    models = members.networks(K)
    own: dict[str, Any] = {"optimizer": grouped, "lr_factors": FACTORS, "weight_decay": DECAYS}
    run = members.together(models, epochs=2, **own)
    assert run.way == "batched"
    assert_as_alone(members, run, models, **own)


def by_frequency(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return cross_entropy(model, x, y) / (0.1 + functional.one_hot(y, 3).float().mean(0)[y])


def centred(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return cross_entropy(model, x - x.mean(0), y)


@pytest.mark.parametrize("losses", [by_frequency, centred])
def test_a_loss_that_looks_at_the_whole_batch_sees_its_members_alone(
    losses: Callable[..., Tensor], members: Any
) -> None:
    """Statistics of labels or inputs alone, which are equal for networks that see equal batches."""
    models = members.networks(K)
    run = members.together(models, epochs=2, losses=losses)
    assert run.way == "vmapped"
    assert_as_alone(members, run, models, losses=losses)


@pytest.mark.parametrize("one_by_one", [False, True])
def test_a_factor_of_the_rate_is_one_of_whatever_rate_a_schedule_sets(one_by_one: bool, members: Any) -> None:
    """One cycle sets its rates by itself; the schedule sees the rates that it set."""
    seen: list[float] = []

    class Cycle(torch.optim.lr_scheduler.OneCycleLR):
        def step(self, epoch: int | None = None) -> None:
            super().step(epoch)
            seen.append(float(self.get_last_lr()[0]))

    plain = lambda parameters: torch.optim.SGD(parameters, lr=0.1)
    settings: dict[str, Any] = {
        "optimizer": plain,
        "scheduler": lambda optimizer: Cycle(optimizer, 0.1, total_steps=20),
        "lr_factors": FACTORS,
        **({"memory_budget": 1} if one_by_one else {}),
    }
    models = members.networks(K)
    run = members.together(models, epochs=2, **settings)
    assert run.way == ("one by one" if one_by_one else "batched")
    together, every = members.together(models, epochs=2, **{**settings, "memory_budget": 2**30}), len(seen)
    for name, value in together.ensemble.parameters.items():
        assert torch.allclose(run.ensemble.parameters[name], value, atol=2e-6), name
    assert every
    assert max(seen) <= 0.1


def test_a_penalty_may_be_all_that_is_learnt_from(members: Any) -> None:
    settings: dict[str, Any] = {
        "losses": lambda model, x, y: cross_entropy(model, x, y).detach(),
        "penalty": lambda model: 0.1 * sum(p.square().sum() for p in model.parameters()),
    }
    models = members.networks(K)
    run = members.together(models, epochs=2, **settings)
    assert run.way == "batched"
    assert_as_alone(members, run, models, **settings)


def test_gradients_may_come_late(members: Any) -> None:
    """Fused SGD with momentum knows no parameter whose first gradient comes after others'."""

    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(6, 3), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.first(x)

    models = [members.drawn(TwoHeads(), k) for k in range(K)]

    def late(after: int) -> Callable[..., Tensor]:
        calls = 0

        def losses(model: Any, x: Tensor, y: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            values = cross_entropy(model, x, y)
            return values + model.second(x).square().sum(1) if calls > after else values

        return losses

    told: list[int] = []

    def counted(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        told.append(1)
        return cross_entropy(model, x, y)

    members.together(models, epochs=1, losses=counted)
    before = len(told) - 5  # calls of trials, before the five steps of an epoch
    run = members.together(models, epochs=2, losses=late(before + 4))
    assert run.way == "vmapped"
    assert_as_alone(members, run, models[:1], losses=late(4))


@pytest.mark.parametrize("optimizer", [sgd, lambda parameters: torch.optim.Adam(parameters, lr=0.01)])
@pytest.mark.parametrize("count", [1, K])
def test_weights_may_lie_in_memory_with_channels_last(count: int, optimizer: Any, members: Any) -> None:
    x = torch.randn(75, 2, 6, 6, generator=torch.Generator().manual_seed(3))
    layers = lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    models = [members.drawn(layers(), k).to(memory_format=torch.channels_last) for k in range(count)]
    run = members.together(models, x=x, epochs=2, optimizer=optimizer)
    assert_as_alone(members, run, models, x=x, optimizer=optimizer)
