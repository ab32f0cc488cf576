"""What a training does in a step and an epoch, against closed forms; and the digits network, trained."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone.data.digits import digits
from torchstone.specimens.networks import digits_cnn
from torchstone.training.evaluation import cross_entropy, mean_over, misclassified, squared_error
from torchstone.training.fit import fit


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sgd(lr: float, momentum: float = 0.0) -> Callable[[Any], torch.optim.Optimizer]:
    return lambda parameters: torch.optim.SGD(parameters, lr=lr, momentum=momentum)


def test_full_batches_are_gradient_descent_in_closed_form(linear: Any, least_squares: Any) -> None:
    x, y = least_squares()
    hessian = 2 * x.T @ x / len(x)
    optimum = torch.linalg.lstsq(x, y).solution
    model = linear()
    fit(model, squared_error, x, y, optimizer=sgd(0.1), batch_size=30, steps=17, generator=generator())
    shrunk = torch.linalg.matrix_power(torch.eye(4, dtype=torch.float64) - 0.1 * hessian, 17)
    expected = optimum + shrunk @ (torch.ones(4, 1, dtype=torch.float64) - optimum)
    assert torch.allclose(model.weight.detach().T, expected, rtol=0, atol=1e-13)


def test_heavy_ball_is_its_linear_recursion(linear: Any, least_squares: Any) -> None:
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
    model = linear()
    fit(model, squared_error, x, y, optimizer=sgd(lr, beta), batch_size=30, steps=40, generator=generator())
    assert torch.allclose(model.weight.detach().T, expected, rtol=0, atol=1e-12)


def test_a_ragged_last_batch_steps_along_its_own_mean(linear: Any, least_squares: Any) -> None:
    x, y = least_squares(count=5)
    seen: list[Tensor] = []

    def losses(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        seen.append(x)
        return squared_error(model, x, y)

    model, weight = linear(), torch.ones(4, 1, dtype=torch.float64)
    fit(model, losses, x, y, optimizer=sgd(0.05), batch_size=3, epochs=2, generator=generator())
    assert [len(batch) for batch in seen] == [3, 2, 3, 2]
    for batch in seen:
        rows = [int((x == row).all(1).nonzero()) for row in batch]
        weight = weight - 0.05 * 2 * batch.T @ (batch @ weight - y[rows]) / len(batch)
    assert torch.allclose(model.weight.detach().T, weight, rtol=0, atol=1e-13)


def test_the_epoch_loss_weighs_every_example_alike(linear: Any, least_squares: Any) -> None:
    x, y = least_squares(count=1003)
    model = linear()
    history = fit(
        model, squared_error, x, y, optimizer=sgd(0.0), batch_size=64, epochs=2, generator=generator()
    )
    whole = float(squared_error(model, x, y).mean().detach())
    assert history["train_loss"] == pytest.approx((whole, whole), abs=1e-12)


def test_every_epoch_visits_every_example_once_in_a_new_order(linear: Any) -> None:
    orders: list[list[int]] = []

    def losses(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        orders.append(y.int().flatten().tolist())
        return squared_error(model, x, y) * 0

    x, y = torch.zeros(23, 4, dtype=torch.float64), torch.arange(23.0, dtype=torch.float64)[:, None]
    fit(linear(), losses, x, y, optimizer=sgd(0.1), batch_size=5, epochs=4, generator=generator())
    epochs = [list(itertools.chain(*orders[i : i + 5])) for i in range(0, 20, 5)]
    assert all(sorted(epoch) == list(range(23)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_a_budget_of_steps_ends_within_an_epoch(linear: Any, least_squares: Any) -> None:
    x, y = least_squares(count=10)
    history = fit(
        linear(),
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
    expected = float(squared_error(linear(), x[rows], y[rows]).mean().detach())
    assert history["train_loss"][1] == pytest.approx(expected, rel=1e-14)


def test_the_digits_network_interpolates_and_generalises() -> None:
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
