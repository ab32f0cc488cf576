from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone.errors import ObjectiveError, SettingError
from torchstone.specimens.networks import digits_cnn, mlp
from torchstone.training.evaluation import cross_entropy, evaluate, misclassified
from torchstone.training.fit import fit
from torchstone.training.fit_many import MembersEpoch, TrainedMany, fit_many

K = 4


def generators(seeds: Sequence[int] = range(K)) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def data(count: int = 75, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, 6, generator=generator).to(dtype)
    return x, torch.randint(3, (count,), generator=generator)


def dense(seed: int, norm: nn.Module | None = None) -> nn.Module:
    first = mlp([6, 16], generator=torch.Generator().manual_seed(seed))
    last = mlp([16, 3], generator=torch.Generator().manual_seed(seed + 100))
    return nn.Sequential(first, norm if norm is not None else nn.Identity(), nn.ReLU(), last)


def sgd(lr: float = 0.1, momentum: float = 0.9, **settings: Any) -> Callable[[Any], torch.optim.Optimizer]:
    return lambda parameters: torch.optim.SGD(parameters, lr=lr, momentum=momentum, **settings)


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in model.state_dict().items()}


def assert_same(run: TrainedMany, k: int, model: nn.Module, tolerance: float = 2e-5) -> None:
    mine, its = state(run.ensemble.member(k)), state(model)
    assert mine.keys() == its.keys()
    for name, value in its.items():
        assert torch.allclose(mine[name], value, rtol=tolerance, atol=tolerance), name


NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "dense": dense,
    "batch norm": lambda seed: dense(seed, nn.BatchNorm1d(16)),
    "layer norm": lambda seed: dense(seed, nn.LayerNorm(16)),
    "group norm": lambda seed: dense(seed, nn.GroupNorm(4, 16)),
}
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": sgd(),
    "nesterov": sgd(nesterov=True, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.003),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05, lr_decay=0.1),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "radam": lambda p: torch.optim.RAdam(p, lr=0.01),
    "adadelta": lambda p: torch.optim.Adadelta(p),
    "adamax": lambda p: torch.optim.Adamax(p, lr=0.01),
}


@pytest.mark.parametrize("network", NETWORKS)
def test_a_member_ends_where_training_it_alone_ends(network: str) -> None:
    models, (x, y) = [NETWORKS[network](k) for k in range(K)], data()
    before = [copy.deepcopy(state(model)) for model in models]
    run = fit_many(
        models, cross_entropy, x, y, optimizer=sgd(), batch_size=16, generators=generators(), epochs=4
    )
    assert (run.way, run.reason) == ("vmapped" if network == "group norm" else "batched", "")
    for k, model in enumerate(models):
        assert all(torch.equal(value, before[k][name]) for name, value in state(model).items())
        history = fit(
            model, cross_entropy, x, y, optimizer=sgd(), batch_size=16, generator=generators()[k], epochs=4
        )
        assert_same(run, k, model)
        assert run.series["train_loss"][k].tolist() == pytest.approx(history["train_loss"], rel=1e-5)
        assert torch.allclose(run.ensemble.outputs(x)[k], model(x), atol=1e-4)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_elementwise_optimizer(name: str) -> None:
    models, (x, y) = [dense(k).double() for k in range(K)], data(dtype=torch.float64)
    settings: dict[str, Any] = {"optimizer": OPTIMIZERS[name], "batch_size": 16, "epochs": 3}
    run = fit_many(models, cross_entropy, x, y, generators=generators(), **settings)
    for k, model in enumerate(models):
        fit(model, cross_entropy, x, y, generator=generators()[k], **settings)
        assert_same(run, k, model, 1e-9)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "rmsprop", "adagrad", "nadam", "radam"])
def test_members_with_their_own_rate_decay_rows_and_targets(name: str) -> None:
    models, (x, y) = [dense(k).double() for k in range(K)], data(dtype=torch.float64)
    draw = torch.Generator().manual_seed(9)
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

    settings: dict[str, Any] = {"batch_size": 16, "epochs": 3, "scheduler": schedule}
    run = fit_many(
        models,
        cross_entropy,
        x,
        y,
        generators=generators(),
        rows=rows,
        targets=targets,
        inputs=inputs,
        lr_factors=factors,
        weight_decay=decay,
        optimizer=plain,
        **settings,
    )
    assert run.steps.tolist() == [9, 15, 9, 15]
    for k, model in enumerate(models):

        def alone(parameters: Any, k: int = k) -> torch.optim.Optimizer:
            optimizer = plain(parameters)
            for group in optimizer.param_groups:
                group["lr"] *= factors[k]
                group["weight_decay"] = decay[k]
            return optimizer

        own_x, own_y = inputs[k][rows[k]], targets[k][rows[k]]
        fit(model, cross_entropy, own_x, own_y, generator=generators()[k], optimizer=alone, **settings)
        assert_same(run, k, model, 1e-9)


def test_a_convolutional_network_with_a_penalty_and_a_ledger() -> None:
    draw = torch.Generator().manual_seed(2)
    x, y = torch.randn(50, 1, 8, 8, generator=draw), torch.randint(10, (50,), generator=draw)
    models = [digits_cnn(generator=torch.Generator().manual_seed(k)) for k in range(3)]

    def penalty(model: nn.Module) -> Tensor:
        return 1e-3 * torch.stack([p.square().sum() for p in model.parameters()]).sum()

    settings: dict[str, Any] = {
        "optimizer": sgd(0.05),
        "batch_size": 16,
        "epochs": 2,
        "penalty": penalty,
        "ledger": misclassified,
    }
    run = fit_many(models, cross_entropy, x, y, generators=generators(range(3)), **settings)
    assert run.way == "batched"
    for k, model in enumerate(models):
        history = fit(model, cross_entropy, x, y, generator=generators()[k], **settings)
        assert_same(run, k, model, 1e-4)
        assert run.ledger is not None
        assert history.ledger is not None
        assert torch.equal(run.ledger[k], history.ledger)
    assert run.ledger is not None
    assert run.ledger.shape == (3, 2, 50)
    assert set(run.ledger.unique().tolist()) <= {0.0, 1.0}


def test_the_note_costs_no_second_forward_pass_and_moves_no_statistics() -> None:
    plain, noted, (x, y) = dense(0, nn.BatchNorm1d(16)), dense(0, nn.BatchNorm1d(16)), data()
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    noted.register_forward_hook(count)
    settings: dict[str, Any] = {"optimizer": sgd(), "batch_size": 16, "epochs": 2}
    fit(plain, cross_entropy, x, y, generator=generators()[0], **settings)
    fit(noted, cross_entropy, x, y, generator=generators()[0], ledger=misclassified, **settings)
    assert calls == 10
    assert all(torch.equal(value, state(noted)[name]) for name, value in state(plain).items())


def test_the_ledger_of_an_epoch_cut_short_says_where_nothing_was_presented() -> None:
    models, (x, y) = [dense(k) for k in range(2)], data()
    run = fit_many(
        models,
        cross_entropy,
        x,
        y,
        optimizer=sgd(),
        batch_size=16,
        generators=generators(range(2)),
        steps=7,
        ledger=misclassified,
    )
    assert run.ledger is not None
    assert run.ledger.isnan().sum(2).tolist() == [[0, 75 - 32], [0, 75 - 32]]


class Recurrent(nn.Module):
    """torch.func.vmap has no rule for the fused GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(2, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(x.view(len(x), 3, 2))[0][:, -1])


def test_what_cannot_be_mapped_is_trained_one_by_one_and_says_so() -> None:
    models, (x, y) = [Recurrent() for _ in range(3)], data()
    settings: dict[str, Any] = {"optimizer": sgd(), "batch_size": 16, "epochs": 2, "ledger": misclassified}
    seen: list[Tensor] = []

    def on_epoch(epoch: MembersEpoch) -> dict[str, Tensor]:
        seen.append(epoch.members)
        return {"error": epoch.ensemble.evaluate(misclassified, x, y).mean(1)}

    run = fit_many(
        models,
        cross_entropy,
        x,
        y,
        generators=generators(range(3)),
        lr_factors=[1.0, 2.0, 0.5],
        on_epoch=on_epoch,
        **settings,
    )
    assert run.way == "one by one"
    assert "vmap" in run.reason
    assert run.series["error"].shape == (3, 2)
    assert torch.cat(seen).tolist() == [0, 0, 1, 1, 2, 2]
    fit(models[0], cross_entropy, x, y, generator=generators()[0], **settings)
    assert_same(run, 0, models[0], 0.0)
    assert run.ledger is not None
    assert run.ledger.shape == (3, 2, 75)
    assert torch.allclose(run.ensemble.outputs(x)[0], models[0](x), atol=1e-6)


def test_an_optimizer_that_mixes_coordinates_trains_one_by_one() -> None:
    models, (x, y) = [dense(k) for k in range(2)], data()

    class Mixing(torch.optim.SGD):
        pass

    run = fit_many(
        models,
        cross_entropy,
        x,
        y,
        optimizer=lambda p: Mixing(p, lr=0.1),
        batch_size=16,
        generators=generators(range(2)),
        epochs=1,
    )
    assert run.way == "one by one"
    assert "Mixing" in run.reason


def test_a_member_that_diverges_is_named_and_disturbs_no_other() -> None:
    x, y = data()
    models = [dense(k) for k in range(3)]
    settings: dict[str, Any] = {"optimizer": sgd(0.1), "batch_size": 16, "epochs": 3}
    poisoned = x.repeat(3, 1, 1)
    poisoned[1, 7] = torch.inf
    run = fit_many(models, cross_entropy, x, y, inputs=poisoned, generators=generators(range(3)), **settings)
    assert list(run.diverged) == [1]
    assert 1 <= run.diverged[1] <= 5
    assert run.finite.tolist() == [True, False, True]
    for k in (0, 2):
        fit(models[k], cross_entropy, x, y, generator=generators()[k], **settings)
        assert_same(run, k, models[k])
    slow = fit_many(
        [copy.deepcopy(m) for m in models],
        cross_entropy,
        x,
        y,
        inputs=poisoned,
        generators=generators(range(3)),
        memory_budget=1,
        **settings,
    )
    assert slow.way == "one by one"
    assert list(slow.diverged) == [1]


def test_weights_that_are_lost_in_the_last_update_are_noticed() -> None:
    models, (x, y) = [dense(k) for k in range(2)], data()
    run = fit_many(
        models,
        cross_entropy,
        x,
        y,
        optimizer=sgd(0.1),
        batch_size=100,
        generators=generators(range(2)),
        steps=1,
        lr_factors=[1.0, 1e45],
    )
    assert run.diverged == {1: 1}


def test_chunks_under_a_memory_budget_change_nothing() -> None:
    models, (x, y) = [dense(k) for k in range(7)], data()
    settings: dict[str, Any] = {"optimizer": sgd(), "batch_size": 16, "epochs": 2, "ledger": misclassified}
    seen: list[int] = []

    def on_epoch(epoch: MembersEpoch) -> dict[str, Tensor]:
        seen.append(len(epoch.members))
        return {"error": epoch.ensemble.evaluate(misclassified, x, y).mean(1)}

    whole = fit_many(
        models, cross_entropy, x, y, generators=generators(range(7)), on_epoch=on_epoch, **settings
    )
    assert seen == [7, 7]
    progress: list[tuple[int, int]] = []
    cut = fit_many(
        models,
        cross_entropy,
        x,
        y,
        generators=generators(range(7)),
        on_epoch=on_epoch,
        memory_budget=30_000,
        on_progress=lambda done, total: progress.append((done, total)),
        **settings,
    )
    assert cut.way == "batched"
    assert 1 < max(seen[2:]) < 7
    assert progress[-1] == (14, 14)
    assert torch.allclose(whole.series["error"], cut.series["error"], atol=0.03)
    assert torch.allclose(whole.ensemble.outputs(x), cut.ensemble.outputs(x), atol=1e-4)
    assert whole.ledger is not None
    assert cut.ledger is not None
    assert (whole.ledger != cut.ledger).double().mean() < 0.01


def test_a_budget_too_small_for_two_members_trains_them_one_by_one() -> None:
    models, (x, y) = [dense(k) for k in range(2)], data()
    run = fit_many(
        models,
        cross_entropy,
        x,
        y,
        optimizer=sgd(),
        batch_size=16,
        generators=generators(range(2)),
        epochs=1,
        memory_budget=1000,
    )
    assert run.way == "one by one"
    assert "memory budget" in run.reason


def test_dropout_trains_and_says_that_its_bits_are_others() -> None:
    models, (x, y) = [dense(k, nn.Dropout(0.3)) for k in range(3)], data()
    settings: dict[str, Any] = {"optimizer": sgd(), "batch_size": 16, "epochs": 5}
    before = torch.get_rng_state()
    run = fit_many(models, cross_entropy, x, y, generators=generators(range(3)), **settings)
    again = fit_many(models, cross_entropy, x, y, generators=generators(range(3)), **settings)
    assert torch.equal(before, torch.get_rng_state())
    assert run.way == "batched"
    assert "dropout" in run.reason
    assert torch.equal(run.ensemble.outputs(x), again.ensemble.outputs(x))
    assert bool((run.series["train_loss"][:, -1] < run.series["train_loss"][:, 0]).all())


def test_equal_seeds_and_models_give_equal_members() -> None:
    model, (x, y) = dense(0), data()
    run = fit_many(
        [model, model],
        cross_entropy,
        x,
        y,
        optimizer=sgd(),
        batch_size=16,
        generators=generators([5, 5]),
        epochs=5,
    )
    assert all(torch.equal(stack[0], stack[1]) for stack in run.ensemble.parameters.values())


def test_trees_of_inputs_and_frozen_and_tied_parameters() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 8), nn.Linear(3, 8)
            self.b.weight = self.a.weight
            self.head = nn.Linear(8, 3)
            self.head.bias.requires_grad_(False)

        def forward(self, parts: dict[str, Tensor]) -> Tensor:
            return self.head((self.a(parts["left"]) * self.b(parts["right"])).tanh())

    x, y = data()
    tree = {"left": x[:, :3], "right": x[:, 3:]}
    models = [Pair() for _ in range(3)]
    run = fit_many(
        models,
        cross_entropy,
        tree,
        y,
        optimizer=sgd(),
        batch_size=16,
        generators=generators(range(3)),
        epochs=3,
    )
    assert run.way == "vmapped"
    whole = torch.arange(75)

    def losses(model: nn.Module, rows: Tensor, _: Tensor) -> Tensor:
        return cross_entropy(model, {name: part[rows] for name, part in tree.items()}, y[rows])  # pyright: ignore[reportArgumentType]

    for k, model in enumerate(models):
        bias = model.head.bias.clone()  # pyright: ignore[reportCallIssue,reportAttributeAccessIssue]
        fit(model, losses, whole, whole, optimizer=sgd(), batch_size=16, generator=generators()[k], epochs=3)
        assert_same(run, k, model)
        assert torch.equal(run.ensemble.member(k).head.bias, bias)  # pyright: ignore[reportCallIssue,reportAttributeAccessIssue,reportArgumentType]


def test_evaluation_equals_that_of_each_member() -> None:
    models, (x, y) = [dense(k, nn.BatchNorm1d(16)) for k in range(3)], data(5000)
    run = fit_many(
        models,
        cross_entropy,
        x,
        y,
        optimizer=sgd(),
        batch_size=500,
        generators=generators(range(3)),
        epochs=1,
    )
    together = run.ensemble.evaluate(cross_entropy, x, y)
    assert together.shape == (3, 5000)
    assert together.dtype == torch.float64
    for k in range(3):
        assert torch.allclose(together[k], evaluate(run.ensemble.member(k), cross_entropy, x, y), atol=1e-5)
    some = run.ensemble.subset([2, 0])
    assert torch.allclose(some.outputs(x)[1], run.ensemble.outputs(x)[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"models": []}, "at least one network"),
        ({"models": [dense(0), dense(1, nn.LayerNorm(16))]}, "one architecture"),
        ({"models": [dense(0), dense(1).double()]}, "one architecture"),
        ({"generators": generators([0])}, "one generator for each"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 2.5}, "batch_size"),
        ({"memory_budget": 0}, "memory_budget"),
        ({"epochs": None}, "epochs or steps"),
        ({"rows": [torch.arange(3)]}, "rows needs"),
        ({"rows": [torch.arange(3), torch.tensor([75])]}, "0..74"),
        ({"rows": [torch.arange(3), torch.ones(75, dtype=torch.bool)]}, "member 1"),
        ({"rows": [torch.arange(3), torch.arange(0)]}, "member 1"),
        ({"targets": torch.zeros(2, 74)}, "targets must have shape"),
        ({"inputs": torch.zeros(75, 6)}, "inputs must have shape"),
        ({"lr_factors": [1.0]}, "lr_factors"),
        ({"lr_factors": [1.0, -1.0]}, "lr_factors"),
        ({"weight_decay": [1.0, float("nan")]}, "weight_decay"),
        ({"y": torch.zeros(3, dtype=torch.long)}, "same number of examples"),
        ({"weight_decay": [0.1, 0.2], "optimizer": sgd(weight_decay=0.1)}, "own must be 0"),
        ({"lr_factors": [1.0, 0.2], "optimizer": lambda p: torch.optim.Rprop(p)}, "proportional"),
        ({"on_epoch": lambda _: {"error": torch.zeros(())}}, "one number for each of 2"),
        ({"scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau}, "number of updates"),
        ({"x": [[0.0] * 6] * 75}, "must be tensors"),
        ({"optimizer": torch.optim.SGD(dense(0).parameters(), lr=0.1)}, "function of the parameters"),
    ],
)
def test_mistakes_get_words(settings: dict[str, Any], message: str) -> None:
    x, y = data()
    given: dict[str, Any] = {
        "models": [dense(0), dense(1)],
        "losses": cross_entropy,
        "x": x,
        "y": y,
        "optimizer": sgd(),
        "batch_size": 16,
        "generators": generators(range(2)),
        "epochs": 1,
    }
    with pytest.raises(SettingError, match=message):
        fit_many(**{**given, **settings})


def test_a_single_example_left_over_for_batch_normalisation_is_told_in_words() -> None:
    x, y = data(33)
    models = [dense(k, nn.BatchNorm1d(16)) for k in range(2)]
    with pytest.raises(ObjectiveError, match="failed on 1 example at step 3"):
        fit_many(
            *(models, cross_entropy, x, y),
            optimizer=sgd(), batch_size=16, generators=generators(range(2)), epochs=1,
        )  # fmt: skip


def test_an_optimizer_that_refuses_stacks_trains_one_by_one() -> None:
    models, (x, y) = [nn.Sequential(nn.Linear(6, 3, bias=False)) for _ in range(2)], data()
    run = fit_many(
        *(models, cross_entropy, x, y),
        optimizer=lambda p: torch.optim.Muon(p), batch_size=16, generators=generators(range(2)), epochs=1,
    )  # fmt: skip
    assert run.way == "one by one"
    assert "does not take stacked parameters" in run.reason


def test_a_loss_that_is_already_averaged_is_refused() -> None:
    x, y = data()
    with pytest.raises(ObjectiveError, match="one number per example"):
        fit_many(
            [dense(0), dense(1)],
            lambda model, a, b: nn.functional.cross_entropy(model(a), b),
            x,
            y,
            optimizer=sgd(),
            batch_size=16,
            generators=generators(range(2)),
            epochs=1,
        )


def test_a_parameter_that_is_one_number_trains_too() -> None:
    class Slope(nn.Module):
        def __init__(self, start: float) -> None:
            super().__init__()
            self.slope = nn.Parameter(torch.tensor(start))

        def forward(self, x: Tensor) -> Tensor:
            return self.slope * x

    x = torch.linspace(-1, 1, 20)
    run = fit_many(
        [Slope(0.0), Slope(1.0)],
        lambda model, some, target: (model(some) - target).square(),
        x,
        3 * x,
        optimizer=sgd(0.1, 0.0),
        batch_size=10,
        epochs=60,
        generators=generators(range(2)),
    )
    assert torch.allclose(run.ensemble.parameters["slope"], torch.tensor([3.0, 3.0]), atol=1e-3)
