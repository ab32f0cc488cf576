"""Twin runs: exactly together on equal data, symmetric, equal to two separate trainings, and slope -1 in n for ridge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone.bounds.power_law import fit_power_law
from torchstone.errors import SettingError
from torchstone.specimens.networks import digits_cnn, mlp
from torchstone.training.evaluation import cross_entropy, squared_error
from torchstone.training.fit import fit
from torchstone.training.fit_many import MembersEpoch, fit_many
from torchstone.training.twins import TwinCurves, TwinWatch, train_twins

PAIRS, COUNT = 3, 24


def sgd(lr: float = 0.1, momentum: float = 0.9) -> Callable[[Any], torch.optim.Optimizer]:
    return lambda parameters: torch.optim.SGD(parameters, lr=lr, momentum=momentum)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def data() -> tuple[Tensor, Tensor]:
    generator = seeded(0)
    return torch.randn(COUNT + PAIRS, 5, generator=generator), torch.randint(
        3, (COUNT + PAIRS,), generator=generator
    )


def samples() -> tuple[Tensor, Tensor]:
    """Pair p replaces example 2p by example COUNT + p."""
    rows = torch.arange(COUNT).repeat(PAIRS, 1)
    twin = rows.clone()
    twin[torch.arange(PAIRS), 2 * torch.arange(PAIRS)] = COUNT + torch.arange(PAIRS)
    return rows, twin


def dense(seed: int) -> nn.Module:
    return mlp([5, 12, 3], generator=seeded(seed))


def with_batch_norm(seed: int) -> nn.Module:
    return nn.Sequential(
        mlp([5, 12], generator=seeded(seed)),
        nn.BatchNorm1d(12),
        nn.ReLU(),
        mlp([12, 3], generator=seeded(seed)),
    )


def with_dropout(seed: int) -> nn.Module:
    return nn.Sequential(dense(seed), nn.Dropout(0.3), mlp([3, 3], generator=seeded(seed)))


def twins(rows: Tensor, twin_rows: Tensor, build=dense, **settings: Any) -> TwinCurves:
    x, y = data()
    asked = {"epochs": 4, "batch_size": 7, "optimizer": sgd(), "probe": x, **settings}
    curves, _, _ = train_twins(
        [build(seed) for seed in range(len(rows))],
        cross_entropy,
        x,
        y,
        rows=rows,
        twin_rows=twin_rows,
        seeds=list(range(len(rows))),
        **asked,
    )
    return curves


@pytest.mark.parametrize("build", [dense, with_batch_norm, with_dropout])
def test_equal_data_give_a_distance_of_exactly_zero(build):
    rows, _ = samples()
    curves = twins(rows, rows, build)
    for values in (curves.distance, curves.normalised, curves.outputs, curves.disagreement):
        assert values is not None
        assert torch.equal(values, torch.zeros(PAIRS, 4, dtype=torch.float64))


def test_equal_images_give_a_distance_of_exactly_zero():
    generator = seeded(3)
    x, y = torch.randn(40, 1, 8, 8, generator=generator), torch.randint(10, (40,), generator=generator)
    rows = torch.arange(40).repeat(3, 1)
    curves, run, _ = train_twins(
        [digits_cnn(generator=seeded(k)) for k in range(3)],
        cross_entropy, x, y, rows=rows, twin_rows=rows, seeds=[0, 1, 2], optimizer=sgd(0.05), batch_size=16, epochs=2,
    )  # fmt: skip
    assert run.way == "batched"
    assert float(curves.distance.max()) == 0.0


@pytest.mark.parametrize("build", [dense, with_batch_norm, with_dropout])
def test_swapping_the_twins_changes_nothing(build):
    rows, twin = samples()
    one, other = twins(rows, twin, build), twins(twin, rows, build)
    assert float(one.distance.min()) > 0
    assert torch.equal(one.distance, other.distance)
    assert torch.equal(one.normalised, other.normalised)
    assert one.outputs is not None
    assert other.outputs is not None
    assert torch.equal(one.outputs, other.outputs)


def test_curves_are_those_of_two_separate_trainings():
    x, y = data()
    rows, twin = samples()
    curves = twins(rows, twin)
    for pair in range(PAIRS):
        states, outputs = [], []
        for some in (rows[pair], twin[pair]):
            model = dense(pair)
            kept: list[Tensor] = []
            said: list[Tensor] = []

            def note(epoch, model=model, kept=kept, said=said) -> None:
                kept.append(torch.cat([p.detach().double().flatten() for p in model.parameters()]))
                with torch.no_grad():
                    said.append(model(x).double())

            fit(
                model,
                cross_entropy,
                x[some],
                y[some],
                optimizer=sgd(),
                batch_size=7,
                epochs=4,
                generator=seeded(pair),
                on_epoch=note,
            )
            states.append(torch.stack(kept))
            outputs.append(torch.stack(said))
        apart = (states[0] - states[1]).norm(dim=1)
        norms = (states[0].square().sum(1) + states[1].square().sum(1)).sqrt()
        assert torch.allclose(curves.distance[pair], apart, rtol=1e-3, atol=1e-6)
        assert torch.allclose(curves.normalised[pair], apart / norms, rtol=1e-3, atol=1e-7)
        rms = (outputs[0] - outputs[1]).square().mean((1, 2)).sqrt()
        other = (outputs[0].argmax(2) != outputs[1].argmax(2)).double().mean(1)
        assert curves.outputs is not None
        assert curves.disagreement is not None
        assert torch.allclose(curves.outputs[pair], rms, rtol=1e-3, atol=1e-6)
        assert torch.allclose(curves.disagreement[pair], other, atol=0.04)  # one of 27 near a tie
    assert curves.steps.tolist() == [4, 8, 12, 16]


def test_layers_add_up_and_weights_go_with_their_biases():
    curves = twins(*samples())
    assert list(curves.squares) == ["1", "3"]
    first, last = curves.squares.values()
    assert torch.equal((first + last).sqrt(), curves.distance)
    assert all(bool(((part > 0) & (part < 2**0.5)).all()) for part in curves.normalised_layers.values())


@pytest.mark.parametrize("memory_budget", [1, 30_000, 2**30])
def test_twins_may_be_trained_in_different_chunks(memory_budget):
    whole, parts = twins(*samples()), twins(*samples(), memory_budget=memory_budget)
    assert torch.allclose(whole.distance, parts.distance, rtol=1e-3, atol=1e-6)


def test_opposite_weights_are_at_the_largest_normalised_distance_and_zero_weights_at_zero():
    table = lambda *values: {"a": torch.tensor([values], dtype=torch.float64)}
    curves = TwinCurves(torch.tensor([1, 2]), torch.tensor([1, 2]), table(4.0, 0.0), table(2.0, 0.0))
    assert curves.normalised.tolist() == [[pytest.approx(2**0.5, rel=1e-15), 0.0]]


@pytest.mark.parametrize("epochs", [5, 60])
def test_distance_of_ridge_descent_falls_as_one_over_n(epochs):
    """Gradient descent on the mean loss moves by rate/n times the difference of two gradients: slope -1 in log n."""
    generator = seeded(5)
    dimension, pairs, sizes = 5, 20, (40, 80, 160, 320)
    x = torch.randn(max(sizes) + pairs, dimension, generator=generator, dtype=torch.float64)
    y = x @ torch.ones(dimension, 1, dtype=torch.float64) + torch.randn(
        len(x), 1, generator=generator, dtype=torch.float64
    )
    ends = []
    for n in sizes:
        rows = torch.arange(n).repeat(pairs, 1)
        twin = rows.clone()
        twin[:, 0] = max(sizes) + torch.arange(pairs)
        model = nn.Linear(dimension, 1, bias=False).double()
        nn.init.zeros_(model.weight)
        curves, _, _ = train_twins(
            [model] * pairs, squared_error, x, y, rows=rows, twin_rows=twin, seeds=[0] * pairs, batch_size=n, epochs=epochs,
            optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
            penalty=lambda model: 0.1 * model.weight.square().sum(),
        )  # fmt: skip
        ends.append(curves.distance[:, -1])
    law = fit_power_law(torch.tensor(sizes), torch.stack(ends, dim=1).mean(0, keepdim=True))
    assert law.exponent == pytest.approx(-1.0, abs=0.2)


def test_wrong_shapes_are_named():
    x, y = data()
    rows, twin = samples()
    with pytest.raises(SettingError, match=r"rows and twin_rows must have shape \(3, n\)"):
        train_twins([dense(k) for k in range(3)], cross_entropy, x, y, rows=rows, twin_rows=twin[:, :5], seeds=[0, 1, 2],
                    optimizer=sgd(), batch_size=4, epochs=1)  # fmt: skip


def test_only_asked_epochs_are_noted():
    x, y = data()
    watch = TwinWatch(epochs={1, 3})
    for on_epoch in (watch.remember, watch.compare):
        fit_many([dense(0)], cross_entropy, x, y, generators=[seeded(0)], optimizer=sgd(), batch_size=8, epochs=4,
                 on_epoch=on_epoch)  # fmt: skip
    curves = watch.curves()
    assert curves.epochs.tolist() == [1, 3]
    assert curves.steps.tolist() == [4, 12]
    assert curves.outputs is None


def test_networks_without_their_twins_are_named():
    x, y = data()
    watch = TwinWatch()
    with pytest.raises(SettingError, match=r"both twins of each pair.*none"):
        watch.curves()

    def train(members: int, on_epoch: Callable[[MembersEpoch], None]) -> None:
        fit_many([dense(k) for k in range(members)], cross_entropy, x, y, generators=[seeded(k) for k in range(members)],
                 optimizer=sgd(), batch_size=8, epochs=1, on_epoch=on_epoch)  # fmt: skip

    with pytest.raises(SettingError, match="none of member 0 after epoch 1"):
        train(1, watch.compare)
    train(2, watch.remember)
    train(1, watch.compare)
    with pytest.raises(SettingError, match="1 states without their twin"):
        watch.curves()
