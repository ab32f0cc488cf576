"""The same seed gives the same bits, whatever draws numbers besides and however the training is cut up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone.training.evaluation import cross_entropy, squared_error
from torchstone.training.fit import Epoch, fit


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sgd(lr: float) -> Callable[[Any], torch.optim.Optimizer]:
    return lambda parameters: torch.optim.SGD(parameters, lr=lr)


def bits(model: nn.Module) -> list[bytes]:
    return [value.numpy().tobytes() for value in model.state_dict().values()]


def test_the_same_seed_gives_the_same_bits_with_dropout_and_batch_normalisation(noisy: Any) -> None:
    (one, first), (two, second), (three, _) = noisy.train(0), noisy.train(0), noisy.train(1)
    assert bits(one) == bits(two) != bits(three)
    assert first == second


def test_the_global_generators_neither_change_nor_matter(noisy: Any, global_state: Any) -> None:
    torch.rand(5)
    before = global_state()
    one, _ = noisy.train()
    assert global_state() == before
    torch.rand(3)
    assert bits(noisy.train()[0]) == bits(one)


def test_what_a_callback_draws_cannot_change_the_training(noisy: Any) -> None:
    def greedy(epoch: Epoch) -> dict[str, float]:
        epoch.model(torch.randn(50, 6))
        return {"noise": float(torch.rand(()))}

    assert bits(noisy.train(on_epoch=greedy)[0]) == bits(noisy.train()[0])


def test_dropout_masks_differ_between_steps_and_epochs(linear: Any, least_squares: Any) -> None:
    masks: list[Tensor] = []

    def losses(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        masks.append(dropout(torch.ones(len(x), 200)) != 0)
        return squared_error(last, x, y)

    dropout, last = nn.Dropout(0.5), linear()
    model = nn.Sequential(dropout, last)
    x, y = least_squares(count=8)
    fit(model, losses, x, y, optimizer=sgd(0.0), batch_size=4, epochs=3, generator=generator())
    assert len({mask.numpy().tobytes() for mask in masks}) == 6
    assert abs(float(torch.cat(masks).double().mean()) - 0.5) < 0.05


def test_training_in_two_parts_is_training_in_one(noisy: Any) -> None:
    whole, history = noisy.train(epochs=4)
    model, stream = noisy.network(), generator(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    parts = [
        fit(
            model,
            cross_entropy,
            noisy.x,
            noisy.y,
            optimizer=optimizer,
            batch_size=16,
            epochs=2,
            generator=stream,
        )
        for _ in range(2)
    ]
    assert bits(model) == bits(whole)
    assert parts[0]["train_loss"] + parts[1]["train_loss"] == history["train_loss"]


def test_a_live_optimiser_and_schedule_are_used_as_they_are(noisy: Any) -> None:
    model = noisy.network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    fit(model, cross_entropy, noisy.x, noisy.y, optimizer=optimizer, scheduler=schedule, batch_size=16, epochs=3,
        generator=generator(0))  # fmt: skip
    assert bits(model) == bits(noisy.train()[0])
    assert schedule.last_epoch == 21


@pytest.mark.parametrize("little", [1, 2000])
def test_how_many_batches_are_gathered_at_once_changes_no_bit(
    little: int, monkeypatch: pytest.MonkeyPatch, noisy: Any
) -> None:
    model, history = noisy.train()
    monkeypatch.setattr("torchstone.training.fit.LITTLE", little)
    # A penalty takes the way through the mean of the losses, whose gradient is written down where there is none.
    other, again = noisy.train(penalty=lambda _: torch.zeros(()))
    assert bits(other) == bits(model)
    assert again.series == history.series
