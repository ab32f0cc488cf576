"""Trainings that fail or could not begin say so in words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from torchstone.errors import NumericalError, ObjectiveError, SettingError
from torchstone.training.evaluation import cross_entropy, squared_error
from torchstone.training.fit import fit

Changed = Callable[[Any], dict[str, Any]]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sgd(lr: float) -> Callable[[Any], torch.optim.Optimizer]:
    return lambda parameters: torch.optim.SGD(parameters, lr=lr)


def test_a_loss_that_is_not_finite_names_its_step(noisy: Any, global_state: Any) -> None:
    x = noisy.x.clone()
    x[50] = torch.nan
    order = torch.randperm(101, generator=generator())
    step = int((order == 50).nonzero()) // 16 + 1
    model = noisy.network()
    before = global_state()
    with pytest.raises(NumericalError, match=rf"at step {step};.*Lower the learning rate"):
        fit(
            model,
            cross_entropy,
            x,
            noisy.y,
            optimizer=sgd(0.1),
            batch_size=16,
            epochs=1,
            generator=generator(),
        )
    assert global_state() == before
    assert not model.training


def test_divergence_at_the_last_step_is_noticed(linear: Any, least_squares: Any) -> None:
    x, y = least_squares()
    with pytest.raises(NumericalError, match="weight did not at step 1"):
        fit(linear(), squared_error, x, y, optimizer=sgd(float("inf")), batch_size=30, steps=1,
            generator=generator())  # fmt: skip


@pytest.mark.parametrize(
    "budget", [{}, {"epochs": 1, "steps": 1}, {"epochs": 0}, {"steps": -1}, {"epochs": 2.5}]
)
def test_the_budget_is_epochs_or_steps(budget, noisy: Any) -> None:
    with pytest.raises(SettingError, match="either epochs or steps"):
        fit(
            noisy.network(),
            cross_entropy,
            noisy.x,
            noisy.y,
            optimizer=sgd(0.1),
            batch_size=16,
            generator=generator(),
            **budget,
        )


@pytest.mark.parametrize(
    ("rows", "batch_size", "message"), [(0, 4, "at least one"), (7, 4, "same number"), (101, 0, "batch_size")]
)
def test_impossible_data_are_refused(rows, batch_size, message, noisy: Any) -> None:
    x = noisy.x[:0] if rows == 0 else noisy.x
    with pytest.raises(SettingError, match=message):
        fit(noisy.network(), cross_entropy, x, noisy.y[:rows], optimizer=sgd(0.1), batch_size=batch_size, epochs=1,
            generator=generator())  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda noisy: {"y": noisy.y + 1}, "IndexError: Target 3 is out of bounds.*range of labels"),
        (lambda noisy: {"x": noisy.x.double()}, "failed on 16 examples at step 1"),
        (
            lambda noisy: {"x": noisy.x[:97], "y": noisy.y[:97]},
            "failed on 1 example at step 7.*leaves none over",
        ),
    ],
)
def test_what_fails_in_the_users_code_is_told_in_words(changed: Changed, message: str, noisy: Any) -> None:
    data: dict[str, Any] = {"x": noisy.x, "y": noisy.y, **changed(noisy)}
    with pytest.raises(ObjectiveError, match=f"(?s){message}"):
        fit(
            noisy.network(),
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
        (lambda _: {"optimizer": torch.optim.LBFGS}, "one gradient"),
        (
            lambda _: {"scheduler": lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o)},
            "number of updates",
        ),
        (lambda noisy: {"model": noisy.network().requires_grad_(False)}, "all of them are frozen"),
        (lambda noisy: {"x": noisy.x.tolist()}, "must be tensors"),
    ],
)
def test_settings_that_cannot_train_are_refused(changed: Changed, message: str, noisy: Any) -> None:
    settings: dict[str, Any] = {
        "model": noisy.network(),
        "x": noisy.x,
        "y": noisy.y,
        "optimizer": sgd(0.1),
        **changed(noisy),
    }
    with pytest.raises(SettingError, match=message):
        fit(losses=cross_entropy, batch_size=16, epochs=1, generator=generator(), **settings)


def test_a_mean_loss_is_refused(noisy: Any) -> None:
    with pytest.raises(ObjectiveError, match=r"one number per example, shape \(16,\)"):
        fit(noisy.network(), lambda m, x, y: cross_entropy(m, x, y).mean(), noisy.x, noisy.y, optimizer=sgd(0.1), batch_size=16,
            epochs=1, generator=generator())  # fmt: skip
