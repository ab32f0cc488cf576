import itertools
import pickle
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torchstone.data.digits import digits
from torchstone.errors import NumericalError, ObjectiveError, SettingError
from torchstone.specimens.networks import digits_cnn, mlp
from torchstone.training.evaluation import cross_entropy, mean_over, misclassified, squared_error
from torchstone.training.fit import Epoch, History, fit


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sgd(lr: float, momentum: float = 0.0) -> Callable[[Any], torch.optim.Optimizer]:
    return lambda parameters: torch.optim.SGD(parameters, lr=lr, momentum=momentum)


def least_squares(count: int = 30, dimension: int = 4) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, dimension, generator=generator(1), dtype=torch.float64)
    return x, torch.randn(count, 1, generator=generator(2), dtype=torch.float64)


def linear(dimension: int = 4) -> nn.Linear:
    return nn.Linear(dimension, 1, bias=False, device="meta", dtype=torch.float64).to_empty(device="cpu")


def started(model: nn.Linear, value: float = 1.0) -> nn.Linear:
    nn.init.constant_(model.weight, value)
    return model


def noisy_network(seed: int) -> nn.Module:
    """Batch normalisation and dropout, initialised from a seed."""
    first, last = mlp([6, 16], generator=generator(seed)), mlp([16, 3], generator=generator(seed + 1))
    return nn.Sequential(first, nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), last)


X = torch.randn(101, 6, generator=generator(3))
Y = torch.randint(3, (101,), generator=generator(4))


def train_noisy(seed: int = 0, epochs: int = 3, **settings: Any) -> tuple[nn.Module, History]:
    model = noisy_network(7)
    settings = {"optimizer": sgd(0.1, 0.9), "batch_size": 16, **settings}
    return model, fit(model, cross_entropy, X, Y, generator=generator(seed), epochs=epochs, **settings)


def bits(model: nn.Module) -> list[bytes]:
    return [value.numpy().tobytes() for value in model.state_dict().values()]


def global_state() -> bytes:
    return pickle.dumps((torch.get_rng_state().tolist(), np.random.get_state(), random.getstate()))  # noqa: NPY002


# Against closed forms.


def test_full_batches_are_gradient_descent_in_closed_form():
    x, y = least_squares()
    hessian = 2 * x.T @ x / len(x)
    optimum = torch.linalg.lstsq(x, y).solution
    model = started(linear())
    fit(model, squared_error, x, y, optimizer=sgd(0.1), batch_size=30, steps=17, generator=generator())
    shrunk = torch.linalg.matrix_power(torch.eye(4, dtype=torch.float64) - 0.1 * hessian, 17)
    expected = optimum + shrunk @ (torch.ones(4, 1, dtype=torch.float64) - optimum)
    assert torch.allclose(model.weight.detach().T, expected, rtol=0, atol=1e-13)


def test_heavy_ball_is_its_linear_recursion():
    x, y = least_squares()
    hessian, lr, beta = 2 * x.T @ x / len(x), 0.05, 0.9
    optimum = torch.linalg.lstsq(x, y).solution
    identity, zero = torch.eye(4, dtype=torch.float64), torch.zeros(4, 4, dtype=torch.float64)
    # State (w_t, w_{t-1}) less the optimum; both are the start at first.
    one = torch.cat(
        [
            torch.cat([(1 + beta) * identity - lr * hessian, -beta * identity], 1),
            torch.cat([identity, zero], 1),
        ]
    )
    start = torch.ones(4, 1, dtype=torch.float64) - optimum
    expected = (torch.linalg.matrix_power(one, 40) @ torch.cat([start, start]))[:4] + optimum
    model = started(linear())
    fit(model, squared_error, x, y, optimizer=sgd(lr, beta), batch_size=30, steps=40, generator=generator())
    assert torch.allclose(model.weight.detach().T, expected, rtol=0, atol=1e-12)


def test_a_ragged_last_batch_steps_along_its_own_mean():
    x, y = least_squares(count=5)
    seen: list[Tensor] = []

    def losses(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        seen.append(x)
        return squared_error(model, x, y)

    model, weight = started(linear()), torch.ones(4, 1, dtype=torch.float64)
    fit(model, losses, x, y, optimizer=sgd(0.05), batch_size=3, epochs=2, generator=generator())
    assert [len(batch) for batch in seen] == [3, 2, 3, 2]
    for batch in seen:
        rows = [int((x == row).all(1).nonzero()) for row in batch]
        weight = weight - 0.05 * 2 * batch.T @ (batch @ weight - y[rows]) / len(batch)
    assert torch.allclose(model.weight.detach().T, weight, rtol=0, atol=1e-13)


# The epoch's loss.


def test_the_epoch_loss_weighs_every_example_alike():
    x, y = least_squares(count=1003)
    model = started(linear())
    history = fit(
        model, squared_error, x, y, optimizer=sgd(0.0), batch_size=64, epochs=2, generator=generator()
    )
    whole = float(squared_error(model, x, y).mean().detach())
    assert history["train_loss"] == pytest.approx((whole, whole), abs=1e-12)


def test_every_epoch_visits_every_example_once_in_a_new_order():
    orders: list[list[int]] = []

    def losses(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        orders.append(y.int().flatten().tolist())
        return squared_error(model, x, y) * 0

    x, y = torch.zeros(23, 4, dtype=torch.float64), torch.arange(23.0, dtype=torch.float64)[:, None]
    fit(started(linear()), losses, x, y, optimizer=sgd(0.1), batch_size=5, epochs=4, generator=generator())
    epochs = [list(itertools.chain(*orders[i : i + 5])) for i in range(0, 20, 5)]
    assert all(sorted(epoch) == list(range(23)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


@pytest.mark.parametrize("little", [1, 2000])
def test_how_many_batches_are_gathered_at_once_changes_no_bit(little: int, monkeypatch: pytest.MonkeyPatch):
    model, history = train_noisy()
    monkeypatch.setattr("torchstone.training.fit.LITTLE", little)
    # A penalty takes the way through the mean of the losses, whose gradient is written down where there is none.
    other, again = train_noisy(penalty=lambda _: torch.zeros(()))
    assert bits(other) == bits(model)
    assert again.series == history.series


def test_an_optimiser_with_a_way_of_its_own_to_clear_gradients_keeps_it():
    class Counting(torch.optim.SGD):
        cleared = 0

        def zero_grad(self, set_to_none: bool = True) -> None:
            self.cleared += 1
            super().zero_grad(set_to_none)

    model = noisy_network(7)
    optimizer = Counting(model.parameters(), lr=0.1)
    fit(model, cross_entropy, X, Y, optimizer=optimizer, batch_size=16, steps=5, generator=generator())
    assert optimizer.cleared == 6


def test_a_budget_of_steps_ends_within_an_epoch():
    x, y = least_squares(count=10)
    history = fit(
        started(linear()),
        squared_error,
        x,
        y,
        optimizer=sgd(0.0),
        batch_size=4,
        steps=4,
        generator=generator(),
    )
    assert (history.steps, history.epochs, history.stopped) == (4, 2, False)
    # The second epoch's loss is the mean over the four examples it saw.
    order = generator()
    torch.randperm(10, generator=order)
    torch.randint(2**62, (), generator=order)
    rows = torch.randperm(10, generator=order)[:4]
    expected = float(squared_error(started(linear()), x[rows], y[rows]).mean().detach())
    assert history["train_loss"][1] == pytest.approx(expected, rel=1e-14)


# Randomness.


def test_the_same_seed_gives_the_same_bits_with_dropout_and_batch_normalisation():
    (one, first), (two, second), (three, _) = train_noisy(0), train_noisy(0), train_noisy(1)
    assert bits(one) == bits(two) != bits(three)
    assert first == second


def test_the_global_generators_neither_change_nor_matter():
    torch.rand(5)
    before = global_state()
    one, _ = train_noisy()
    assert global_state() == before
    torch.rand(3)
    assert bits(train_noisy()[0]) == bits(one)


def test_what_a_callback_draws_cannot_change_the_training():
    def greedy(epoch: Epoch) -> dict[str, float]:
        epoch.model(torch.randn(50, 6))
        return {"noise": float(torch.rand(()))}

    assert bits(train_noisy(on_epoch=greedy)[0]) == bits(train_noisy()[0])


def test_dropout_masks_differ_between_steps_and_epochs():
    masks: list[Tensor] = []

    def losses(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        masks.append(dropout(torch.ones(len(x), 200)) != 0)
        return squared_error(last, x, y)

    dropout, last = nn.Dropout(0.5), started(linear())
    model = nn.Sequential(dropout, last)
    x, y = least_squares(count=8)
    fit(model, losses, x, y, optimizer=sgd(0.0), batch_size=4, epochs=3, generator=generator())
    assert len({mask.numpy().tobytes() for mask in masks}) == 6
    assert abs(float(torch.cat(masks).double().mean()) - 0.5) < 0.05


def test_training_in_two_parts_is_training_in_one():
    whole, history = train_noisy(epochs=4)
    model, stream = noisy_network(7), generator(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    parts = [
        fit(model, cross_entropy, X, Y, optimizer=optimizer, batch_size=16, epochs=2, generator=stream)
        for _ in range(2)
    ]
    assert bits(model) == bits(whole)
    assert parts[0]["train_loss"] + parts[1]["train_loss"] == history["train_loss"]


# Modes, callbacks, schedules.


def test_modes_are_train_in_a_step_eval_in_a_callback_and_eval_after():
    modes: list[tuple[str, bool]] = []

    def losses(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        modes.append(("step", model.training))
        return cross_entropy(model, x, y)

    model = noisy_network(0)
    fit(
        model, losses, X, Y, optimizer=sgd(0.1), batch_size=101, epochs=2, generator=generator(),
        on_epoch=lambda epoch: modes.append(("callback", epoch.model.training)),
    )  # fmt: skip
    assert modes == [("step", True), ("callback", False)] * 2
    assert not any(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_callbacks_are_told_and_their_numbers_recorded():
    told: list[Epoch] = []

    def on_epoch(epoch: Epoch) -> dict[str, float]:
        told.append(epoch)
        return {
            "train_error": mean_over(epoch.model, misclassified, X, Y),
            "lr": epoch.optimizer.param_groups[0]["lr"],
        }

    _, history = train_noisy(epochs=3, on_epoch=on_epoch)
    assert [(epoch.index, epoch.steps) for epoch in told] == [(1, 7), (2, 14), (3, 21)]
    assert tuple(epoch.train_loss for epoch in told) == history["train_loss"]
    assert set(history.series) == {"train_loss", "train_error", "lr"}
    assert history["lr"] == (0.1,) * 3
    assert history.epochs == 3


def test_the_schedule_steps_after_every_update():
    _, history = train_noisy(
        scheduler=lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step),
        on_epoch=lambda epoch: {"lr": epoch.optimizer.param_groups[0]["lr"]},
    )
    assert history["lr"] == pytest.approx([0.1 * 0.5**7, 0.1 * 0.5**14, 0.1 * 0.5**21])


def test_a_live_optimiser_and_schedule_are_used_as_they_are():
    model = noisy_network(7)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    fit(model, cross_entropy, X, Y, optimizer=optimizer, scheduler=schedule, batch_size=16, epochs=3,
        generator=generator(0))  # fmt: skip
    assert bits(model) == bits(train_noisy()[0])
    assert schedule.last_epoch == 21


def test_stop_ends_the_training_and_only_before_its_budget_counts():
    _, history = train_noisy(epochs=9, stop=lambda series: len(series["train_loss"]) == 2)
    assert (history.epochs, history.steps, history.stopped) == (2, 14, True)
    _, history = train_noisy(epochs=2, stop=lambda series: len(series["train_loss"]) == 2)
    assert (history.epochs, history.stopped) == (2, False)


# Errors.


def test_a_loss_that_is_not_finite_names_its_step():
    x = X.clone()
    x[:] = torch.where(torch.arange(101)[:, None] == 50, torch.nan, x)
    order = torch.randperm(101, generator=generator())
    step = int((order == 50).nonzero()) // 16 + 1
    model = noisy_network(0)
    before = global_state()
    with pytest.raises(NumericalError, match=rf"at step {step};.*Lower the learning rate"):
        fit(model, cross_entropy, x, Y, optimizer=sgd(0.1), batch_size=16, epochs=1, generator=generator())
    assert global_state() == before
    assert not model.training


def test_divergence_at_the_last_step_is_noticed():
    x, y = least_squares()
    with pytest.raises(NumericalError, match="weight did not at step 1"):
        fit(started(linear()), squared_error, x, y, optimizer=sgd(float("inf")), batch_size=30, steps=1,
            generator=generator())  # fmt: skip


@pytest.mark.parametrize(
    "budget", [{}, {"epochs": 1, "steps": 1}, {"epochs": 0}, {"steps": -1}, {"epochs": 2.5}]
)
def test_the_budget_is_epochs_or_steps(budget):
    with pytest.raises(SettingError, match="either epochs or steps"):
        fit(
            noisy_network(0),
            cross_entropy,
            X,
            Y,
            optimizer=sgd(0.1),
            batch_size=16,
            generator=generator(),
            **budget,
        )


@pytest.mark.parametrize(
    ("rows", "batch_size", "message"), [(0, 4, "at least one"), (7, 4, "same number"), (101, 0, "batch_size")]
)
def test_impossible_data_are_refused(rows, batch_size, message):
    x = X[:0] if rows == 0 else X
    with pytest.raises(SettingError, match=message):
        fit(noisy_network(0), cross_entropy, x, Y[:rows], optimizer=sgd(0.1), batch_size=batch_size, epochs=1,
            generator=generator())  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"y": Y + 1}, "IndexError: Target 3 is out of bounds.*range of labels"),
        ({"x": X.double()}, "failed on 16 examples at step 1"),
        ({"x": X[:97], "y": Y[:97]}, "failed on 1 example at step 7.*leaves none over"),
    ],
)
def test_what_fails_in_the_users_code_is_told_in_words(changed: dict[str, Tensor], message: str):
    data: dict[str, Any] = {"x": X, "y": Y, **changed}
    with pytest.raises(ObjectiveError, match=f"(?s){message}"):
        fit(
            noisy_network(7),
            cross_entropy,
            **data,
            optimizer=sgd(0.1),
            batch_size=16,
            epochs=1,
            generator=generator(),
        )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"optimizer": torch.optim.LBFGS}, "one gradient"),
        ({"scheduler": lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o)}, "number of updates"),
        ({"model": noisy_network(7).requires_grad_(False)}, "all of them are frozen"),
        ({"x": X.tolist()}, "must be tensors"),
    ],
)
def test_settings_that_cannot_train_are_refused(changed: dict[str, Any], message: str):
    settings: dict[str, Any] = {"model": noisy_network(7), "x": X, "y": Y, "optimizer": sgd(0.1), **changed}
    with pytest.raises(SettingError, match=message):
        fit(losses=cross_entropy, batch_size=16, epochs=1, generator=generator(), **settings)


def test_a_mean_loss_is_refused():
    with pytest.raises(ObjectiveError, match=r"one number per example, shape \(16,\)"):
        fit(noisy_network(0), lambda m, x, y: cross_entropy(m, x, y).mean(), X, Y, optimizer=sgd(0.1), batch_size=16,
            epochs=1, generator=generator())  # fmt: skip


@pytest.mark.parametrize(
    "on_epoch",
    [
        lambda epoch: {"train_loss": epoch.train_loss},
        lambda epoch: {"test_error": 1.0} if epoch.index == 1 else None,
        lambda epoch: {"test_error": 1.0} if epoch.index == 2 else {},
    ],
)
def test_series_must_have_one_value_an_epoch(on_epoch):
    with pytest.raises(SettingError, match="the same names after every epoch"):
        train_noisy(on_epoch=on_epoch)


# A real network.


def test_the_digits_network_interpolates_and_generalises():
    data, stream = digits(), generator()
    model = digits_cnn(generator=stream)
    fit(
        model,
        cross_entropy,
        *data.train,
        optimizer=sgd(0.05, 0.9),
        batch_size=64,
        epochs=15,
        generator=stream,
    )
    assert mean_over(model, misclassified, *data.train) == 0
    assert mean_over(model, misclassified, *data.test) <= 0.02
