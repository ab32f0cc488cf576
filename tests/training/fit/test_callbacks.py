"""What callbacks, schedules, optimisers and stopping rules see, and what is recorded of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone.errors import SettingError
from torchstone.training.evaluation import cross_entropy, mean_over, misclassified
from torchstone.training.fit import Epoch, fit


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sgd(lr: float) -> Callable[[Any], torch.optim.Optimizer]:
    return lambda parameters: torch.optim.SGD(parameters, lr=lr)


def test_modes_are_train_in_a_step_eval_in_a_callback_and_eval_after(noisy: Any) -> None:
    modes: list[tuple[str, bool]] = []

    def losses(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        modes.append(("step", model.training))
        return cross_entropy(model, x, y)

    model = noisy.network()
    fit(
        model, losses, noisy.x, noisy.y, optimizer=sgd(0.1), batch_size=101, epochs=2, generator=generator(),
        on_epoch=lambda epoch: modes.append(("callback", epoch.model.training)),
    )  # fmt: skip
    assert modes == [("step", True), ("callback", False)] * 2
    assert not any(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_callbacks_are_told_and_their_numbers_recorded(noisy: Any) -> None:
    told: list[Epoch] = []

    def on_epoch(epoch: Epoch) -> dict[str, float]:
        told.append(epoch)
        return {
            "train_error": mean_over(epoch.model, misclassified, noisy.x, noisy.y),
            "lr": epoch.optimizer.param_groups[0]["lr"],
        }

    _, history = noisy.train(epochs=3, on_epoch=on_epoch)
    assert [(epoch.index, epoch.steps) for epoch in told] == [(1, 7), (2, 14), (3, 21)]
    assert tuple(epoch.train_loss for epoch in told) == history["train_loss"]
    assert set(history.series) == {"train_loss", "train_error", "lr"}
    assert history["lr"] == (0.1,) * 3
    assert history.epochs == 3


@pytest.mark.parametrize(
    "on_epoch",
    [
        lambda epoch: {"train_loss": epoch.train_loss},
        lambda epoch: {"test_error": 1.0} if epoch.index == 1 else None,
        lambda epoch: {"test_error": 1.0} if epoch.index == 2 else {},
    ],
)
def test_series_must_have_one_value_an_epoch(on_epoch, noisy: Any) -> None:
    with pytest.raises(SettingError, match="the same names after every epoch"):
        noisy.train(on_epoch=on_epoch)


def test_the_schedule_steps_after_every_update(noisy: Any) -> None:
    _, history = noisy.train(
        scheduler=lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step),
        on_epoch=lambda epoch: {"lr": epoch.optimizer.param_groups[0]["lr"]},
    )
    assert history["lr"] == pytest.approx([0.1 * 0.5**7, 0.1 * 0.5**14, 0.1 * 0.5**21])


def test_stop_ends_the_training_and_only_before_its_budget_counts(noisy: Any) -> None:
    _, history = noisy.train(epochs=9, stop=lambda series: len(series["train_loss"]) == 2)
    assert (history.epochs, history.steps, history.stopped) == (2, 14, True)
    _, history = noisy.train(epochs=2, stop=lambda series: len(series["train_loss"]) == 2)
    assert (history.epochs, history.stopped) == (2, False)


def test_an_optimiser_with_a_way_of_its_own_to_clear_gradients_keeps_it(noisy: Any) -> None:
    class Counting(torch.optim.SGD):
        cleared = 0

        def zero_grad(self, set_to_none: bool = True) -> None:
            self.cleared += 1
            super().zero_grad(set_to_none)

    model = noisy.network()
    optimizer = Counting(model.parameters(), lr=0.1)
    fit(
        model,
        cross_entropy,
        noisy.x,
        noisy.y,
        optimizer=optimizer,
        batch_size=16,
        steps=5,
        generator=generator(),
    )
    assert optimizer.cleared == 6
