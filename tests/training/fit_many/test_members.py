"""Each member ends where training it alone ends, whatever the network, the optimiser and its own settings."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone.specimens.networks import digits_cnn
from torchstone.training.evaluation import cross_entropy, evaluate, misclassified

K = 4
NORMS: dict[str, Callable[[], nn.Module]] = {
    "dense": nn.Identity,
    "batch norm": lambda: nn.BatchNorm1d(16),
    "layer norm": lambda: nn.LayerNorm(16),
    "group norm": lambda: nn.GroupNorm(4, 16),
}
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.003),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05, lr_decay=0.1),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "radam": lambda p: torch.optim.RAdam(p, lr=0.01),
    "adadelta": lambda p: torch.optim.Adadelta(p),
    "adamax": lambda p: torch.optim.Adamax(p, lr=0.01),
}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("network", NORMS)
def test_a_member_ends_where_training_it_alone_ends(network: str, members: Any) -> None:
    models = [members.network(k, NORMS[network]()) for k in range(K)]
    before = [copy.deepcopy(model.state_dict()) for model in models]
    run = members.together(models, epochs=4)
    assert (run.way, run.reason) == ("vmapped" if network == "group norm" else "batched", "")
    for k, model in enumerate(models):
        assert all(torch.equal(value, before[k][name]) for name, value in model.state_dict().items())
        history = members.alone(model, k, epochs=4)
        members.assert_same(run, k, model)
        assert run.series["train_loss"][k].tolist() == pytest.approx(history["train_loss"], rel=1e-5)
        assert torch.allclose(run.ensemble.outputs(members.x)[k], model(members.x), atol=1e-4)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_elementwise_optimizer(name: str, members: Any) -> None:
    models = [model.double() for model in members.networks(K)]
    settings: dict[str, Any] = {"optimizer": OPTIMIZERS[name], "epochs": 3, "x": members.x.double()}
    run = members.together(models, **settings)
    for k, model in enumerate(models):
        members.alone(model, k, **settings)
        members.assert_same(run, k, model, 1e-9)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "rmsprop", "adagrad", "nadam", "radam"])
def test_members_with_their_own_rate_decay_rows_and_targets(name: str, members: Any) -> None:
    models, draw = [model.double() for model in members.networks(K)], seeded(9)
    # Two lengths, so two groups that make different numbers of updates; one with repeats.
    rows = [torch.randint(75, (n,), generator=draw) for n in (40, 75, 40, 75)]
    targets = torch.randint(3, (K, 75), generator=draw)
    inputs = torch.randn(K, 75, 6, generator=draw, dtype=torch.float64)
    factors, decay = [1.0, 0.5, 0.0, 2.0], [0.0, 0.1, 0.01, 0.3]

    def plain(parameters: Any) -> torch.optim.Optimizer:
        optimizer = OPTIMIZERS[name](parameters)
        for group in optimizer.param_groups:
            group["weight_decay"] = 0.0
        return optimizer

    def schedule(optimizer: torch.optim.Optimizer) -> Any:
        return torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.7)

    settings: dict[str, Any] = {"epochs": 3, "scheduler": schedule}
    own: dict[str, Any] = {"rows": rows, "targets": targets, "inputs": inputs, "weight_decay": decay}
    run = members.together(
        models, x=members.x.double(), lr_factors=factors, optimizer=plain, **own, **settings
    )
    assert run.steps.tolist() == [9, 15, 9, 15]
    for k, model in enumerate(models):

        def alone(parameters: Any, k: int = k) -> torch.optim.Optimizer:
            optimizer = plain(parameters)
            for group in optimizer.param_groups:
                group["lr"] *= factors[k]
                group["weight_decay"] = decay[k]
            return optimizer

        x, y = inputs[k][rows[k]], targets[k][rows[k]]
        members.alone(model, k, x=x, y=y, optimizer=alone, **settings)
        members.assert_same(run, k, model, 1e-9)


def test_a_convolutional_network_with_a_penalty_and_a_ledger(members: Any) -> None:
    draw = seeded(2)
    x, y = torch.randn(50, 1, 8, 8, generator=draw), torch.randint(10, (50,), generator=draw)
    models = [digits_cnn(generator=seeded(k)) for k in range(3)]

    def penalty(model: nn.Module) -> Tensor:
        return 1e-3 * torch.stack([p.square().sum() for p in model.parameters()]).sum()

    settings: dict[str, Any] = {"x": x, "y": y, "epochs": 2, "penalty": penalty, "ledger": misclassified}
    settings["optimizer"] = lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9)
    run = members.together(models, **settings)
    assert run.way == "batched"
    assert run.ledger is not None
    for k, model in enumerate(models):
        history = members.alone(model, k, **settings)
        members.assert_same(run, k, model, 1e-4)
        assert torch.equal(run.ledger[k], history.ledger)
    assert run.ledger.shape == (3, 2, 50)
    assert set(run.ledger.unique().tolist()) <= {0.0, 1.0}


def test_trees_of_inputs_and_frozen_and_tied_parameters(members: Any) -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 8), nn.Linear(3, 8)
            self.b.weight = self.a.weight
            self.head = nn.Linear(8, 3)
            self.head.bias.requires_grad_(False)

        def forward(self, parts: dict[str, Tensor]) -> Tensor:
            return self.head((self.a(parts["left"]) * self.b(parts["right"])).tanh())

    tree = {"left": members.x[:, :3], "right": members.x[:, 3:]}
    models = [members.drawn(Pair(), k) for k in range(3)]
    run = members.together(models, x=tree, epochs=3)
    assert run.way == "vmapped"
    whole = torch.arange(75)

    def losses(model: Any, rows: Tensor, _: Tensor) -> Tensor:
        some: Any = {name: part[rows] for name, part in tree.items()}
        return cross_entropy(model, some, members.y[rows])

    for k, model in enumerate(models):
        bias = model.head.bias.clone()
        members.alone(model, k, losses=losses, x=whole, y=whole, epochs=3)
        members.assert_same(run, k, model)
        assert torch.equal(run.ensemble.member(k).head.bias, bias)


def test_a_parameter_that_is_one_number_trains_too(members: Any) -> None:
    class Slope(nn.Module):
        def __init__(self, start: float) -> None:
            super().__init__()
            self.slope = nn.Parameter(torch.tensor(start))

        def forward(self, x: Tensor) -> Tensor:
            return self.slope * x

    x = torch.linspace(-1, 1, 20)
    run = members.together(
        [Slope(0.0), Slope(1.0)],
        losses=lambda model, some, target: (model(some) - target).square(),
        x=x,
        y=3 * x,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        batch_size=10,
        epochs=60,
    )
    assert torch.allclose(run.ensemble.parameters["slope"], torch.tensor([3.0, 3.0]), atol=1e-3)


def test_equal_seeds_and_models_give_equal_members(members: Any) -> None:
    model = members.network(0)
    run = members.together([model, model], generators=[seeded(5), seeded(5)], epochs=5)
    assert all(torch.equal(stack[0], stack[1]) for stack in run.ensemble.parameters.values())


def test_dropout_trains_and_says_that_its_bits_are_others(members: Any) -> None:
    models = [members.network(k, nn.Dropout(0.3)) for k in range(3)]
    before = torch.get_rng_state()
    run = members.together(models, epochs=5)
    again = members.together(models, epochs=5)
    assert torch.equal(before, torch.get_rng_state())
    assert run.way == "batched"
    assert "dropout" in run.reason
    assert torch.equal(run.ensemble.outputs(members.x), again.ensemble.outputs(members.x))
    assert bool((run.series["train_loss"][:, -1] < run.series["train_loss"][:, 0]).all())


def test_evaluation_equals_that_of_each_member(many_examples: Any) -> None:
    x, y = many_examples.x, many_examples.y
    models = [many_examples.network(k, nn.BatchNorm1d(16)) for k in range(3)]
    ensemble = many_examples.together(models, batch_size=500, epochs=1).ensemble
    together = ensemble.evaluate(cross_entropy, x, y)
    assert together.shape == (3, 5000)
    assert together.dtype == torch.float64
    for k in range(3):
        assert torch.allclose(together[k], evaluate(ensemble.member(k), cross_entropy, x, y), atol=1e-5)
    some = ensemble.subset([2, 0])
    assert torch.allclose(some.outputs(x)[1], ensemble.outputs(x)[0])
