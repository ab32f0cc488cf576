"""Siblings of a specimen's network: each what training again from its seed gives, whatever the data look like."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone import Recipe, Specimen
from torchstone.errors import NotApplicableError, SettingError, SpecimenError
from torchstone.objectives import Classification, Regression
from torchstone.specimens.networks import mlp
from torchstone.testing import model_state, same_state
from torchstone.training.fit_many import MembersEpoch
from torchstone.workbench.retraining import train_again, train_many
from torchstone.workbench.siblings import Siblings, wrong

SEEDS = [5, 6, 7]


def data(count: int = 60) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x, x[:, :3].argmax(1)


def build(*, generator: torch.Generator) -> nn.Module:
    return mlp([4, 8, 3], generator=generator).double()


def grouped(model: nn.Module) -> torch.optim.Optimizer:
    first, *rest = model.parameters()
    return torch.optim.SGD([{"params": [first], "weight_decay": 0.1}, {"params": rest}], lr=0.1, momentum=0.9)


def specimen(layout: str = "tuple", **recipe: Any) -> Specimen:
    model, (x, y) = build(generator=torch.Generator().manual_seed(1)), data()
    train: Any = (x, y)
    if layout == "batches":
        train = [(x[i : i + 7], y[i : i + 7]) for i in range(0, 60, 7)]
    if layout == "dicts":
        train = [{"label": y[i : i + 7], "input": x[i : i + 7]} for i in range(0, 60, 7)]
    if layout == "text beside":
        train = [{"input": x[i : i + 7], "label": y[i : i + 7], "name": ["a"] * 7} for i in range(0, 56, 7)]
    settings: dict[str, Any] = {"optimizer": grouped(model), "batch_size": 16, "epochs": 3, "build": build}
    return Specimen(model, Classification(), train, (x, y), Recipe(**{**settings, **recipe})).prepared()


def assert_equal(siblings: Siblings, k: int, model: nn.Module) -> None:
    for mine, its in zip(siblings.member(k).parameters(), model.parameters(), strict=True):
        assert torch.allclose(mine, its, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("layout", ["tuple", "batches", "dicts", "text beside"])
def test_each_is_what_training_again_gives(layout: str) -> None:
    original = specimen(layout)
    before = model_state(original.model)
    siblings = train_many(original, SEEDS, ledger=wrong(original.objective))
    assert siblings.run is not None
    assert siblings.run.way == ("one by one" if layout == "text beside" else "batched")
    assert len(siblings) == 3
    for k, seed in enumerate(SEEDS):
        model, history = train_again(original, seed)
        assert_equal(siblings, k, model)
        losses = siblings.run.series["train_loss"][k].tolist()
        assert losses == pytest.approx(history["train_loss"], rel=1e-9)
        x, y = data()
        assert torch.allclose(siblings.scores("test")[k], model(x), atol=1e-9)
        assert torch.equal(siblings.errors("test")[k], (model(x).argmax(1) != y).double())
        expected = nn.functional.cross_entropy(model(x), y, reduction="none")
        assert torch.allclose(siblings.losses("test")[k], expected, atol=1e-9)
    count = original.size("train")
    assert siblings.errors("train").shape == (3, count)
    assert siblings.run.ledger is not None
    assert siblings.run.ledger.shape == (3, 3, count)
    assert same_state(before, model_state(original.model))


def test_rows_labels_penalty_schedule_and_progress() -> None:
    def penalty(model: nn.Module) -> Tensor:
        return 1e-2 * torch.stack([p.square().sum() for p in model.parameters()]).sum()

    def schedule(optimizer: Any) -> Any:
        return torch.optim.lr_scheduler.StepLR(optimizer, 4, 0.5)

    original = specimen(penalty=penalty, schedule=schedule)
    x, y = data()
    labels = torch.stack([y, (y + 1) % 3, y.flip(0)])
    rows = torch.stack([torch.arange(k, 40 + k) for k in range(3)])
    told: list[tuple[int, int]] = []

    def on_epoch(epoch: MembersEpoch, siblings: Siblings) -> dict[str, Tensor]:
        assert len(siblings) == len(epoch.members) == 3
        return {"test_error": siblings.errors("test").mean(1)}

    siblings = train_many(
        original,
        SEEDS,
        rows=rows,
        labels=labels,
        on_epoch=on_epoch,
        on_progress=lambda done, total: told.append((done, total)),
    )
    assert siblings.run is not None
    assert told == [(3, 9), (6, 9), (9, 9)]
    assert siblings.run.series["test_error"].shape == (3, 3)
    assert torch.allclose(siblings.run.series["test_error"][:, -1], siblings.errors("test").mean(1))
    for k, seed in enumerate(SEEDS):
        own = Specimen(
            original.model, Classification(), (x[rows[k]], labels[k][rows[k]]), recipe=original.recipe
        )
        assert_equal(siblings, k, train_again(own.prepared(), seed)[0])
    assert bool((siblings.errors("test")[0].mean() < siblings.errors("test")[1].mean()).item())


def test_other_networks_and_twins() -> None:
    def wider(*, generator: torch.Generator) -> nn.Module:
        return mlp([4, 32, 3], generator=generator).double()

    original = specimen()
    siblings = train_many(original, [3, 3, 4], build=wider, epochs=2)
    assert siblings.run is not None
    assert siblings.run.way == "batched"
    assert next(siblings.member(0).parameters()).shape == (32, 4)
    first = [stack[0] for stack in siblings.ensemble.parameters.values()]
    second = [stack[1] for stack in siblings.ensemble.parameters.values()]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(
        first[0], siblings.ensemble.parameters[next(iter(siblings.ensemble.parameters))][2]
    )
    with pytest.raises(SpecimenError, match="parameters of the examined one"):
        train_many(specimen(build=wider), [1])


def test_regression_has_losses_and_no_errors() -> None:
    x, _ = data()
    model = build(generator=torch.Generator().manual_seed(1))
    recipe = Recipe(build=build, lr=0.05, batch_size=16, epochs=2)
    original = Specimen(model, Regression(), (x, x[:, :3]), (x, x[:, :3]), recipe).prepared()
    siblings = train_many(original, SEEDS)
    assert_equal(siblings, 1, train_again(original, SEEDS[1])[0])
    assert siblings.losses().shape == (3, 60)
    with pytest.raises(NotApplicableError, match="class"):
        siblings.errors()
    with pytest.raises(NotApplicableError, match="class"):
        siblings.scores()


def test_frozen_parameters_stay() -> None:
    original = specimen()
    name, parameter = next(iter(original.model.named_parameters()))
    parameter.requires_grad_(False)
    original.__dict__.pop("trainable", None)
    again = replace(original.recipe, optimizer=lambda p: torch.optim.SGD(p, lr=0.1))  # pyright: ignore[reportArgumentType]
    original.recipe = again
    siblings = train_many(original, SEEDS)
    start = build(generator=torch.Generator().manual_seed(SEEDS[0]))
    assert torch.equal(siblings.ensemble.parameters[name][0], dict(start.named_parameters())[name])
    assert_equal(siblings, 0, train_again(original, SEEDS[0])[0])


def test_mistakes_get_words() -> None:
    incomplete = specimen(epochs=None)
    with pytest.raises(NotApplicableError, match="epochs"):
        train_many(incomplete, SEEDS)
    with pytest.raises(NotApplicableError, match="train the network again"):
        train_many(specimen(build=None), SEEDS)
    with pytest.raises(SettingError, match="at least one"):
        train_many(specimen(), [])
    with pytest.raises(NotApplicableError, match="target that is a tensor"):
        train_many(specimen("text beside"), SEEDS, labels=torch.zeros(3, 56))


def test_a_recipe_that_draws_from_the_global_generator_has_its_seeds_too() -> None:
    def plain() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).double()

    model = plain()
    recipe = Recipe(build=plain, lr=0.1, batch_size=16, epochs=2)
    original = Specimen(model, Classification(), data(), data(), recipe).prepared()
    before = torch.get_rng_state()
    first, second = train_many(original, SEEDS), train_many(original, SEEDS)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first.outputs(), second.outputs())
    assert not torch.allclose(first.outputs()[0], first.outputs()[1])
    assert_equal(first, 0, train_again(original, SEEDS[0])[0])


def test_a_recipe_that_is_not_deterministic_is_named() -> None:
    seeds = iter(range(100))

    def restless(*, generator: torch.Generator) -> nn.Module:
        return build(generator=torch.Generator().manual_seed(next(seeds)))

    with pytest.raises(SpecimenError, match="the same weights from the same seed"):
        train_many(specimen(build=restless), SEEDS)


@pytest.mark.parametrize(
    ("wrong_settings", "message"),
    [
        ({"seeds": 3}, "seed of each network.*got 3"),
        ({"seeds": [1.5]}, "seed of each network"),
        ({"seeds": ["a"]}, "seed of each network"),
        ({"labels": torch.zeros(2, 5)}, r"labels must have shape \(2, 60, ...\).*got shape \(2, 5\)"),
        ({"labels": [[0]]}, "labels must have shape.*got list"),
    ],
)
def test_seeds_and_labels_that_do_not_fit_are_told(wrong_settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        train_many(specimen(), **{"seeds": [0, 1], **wrong_settings})
