"""A network trained on the spot, with everything an examination may want to know of how."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from torchstone.data.split import DataSplit
from torchstone.objectives import Objective
from torchstone.recipe import Recipe
from torchstone.specimen import Specimen
from torchstone.training.evaluation import PerExample, mean_over, misclassified
from torchstone.training.fit import Epoch, OnEpoch, fit

STATES = 30  # kept along the training
TRAJECTORY_BYTES = 30 * 10**6


@dataclass(frozen=True)
class Training:
    """How a built-in specimen is trained.

    Args:
        build: Makes the untrained network from a generator.
        losses: Loss by example.
        optimizer: Makes the optimiser of the parameters.
        batch_size: Examples a step.
        epochs: Passes over the training data.
        schedule: Makes a learning-rate schedule of the optimiser, stepped after every update.
    """

    build: Callable[..., nn.Module]
    losses: PerExample
    optimizer: Callable[[Any], Optimizer]
    batch_size: int
    epochs: int
    schedule: Callable[[Optimizer], LRScheduler] | None = None


def trained(name: str, data: DataSplit, objective: Objective, training: Training, seed: int) -> Specimen:
    """Train a network on a data set and put both, with the recipe and its history, into a specimen.

    Shows progress with the remaining time on standard error where that is a terminal.

    Args:
        name: Name of the specimen.
        data: Training and test examples.
        objective: What it is examined for; must be the loss it is trained on.
        training: How.
        seed: Of the initial weights and of the order of examples.
    """
    generator = torch.Generator().manual_seed(seed)
    model = training.build(generator=generator)
    initial = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = training.optimizer(model.parameters())
    history = fit(
        model,
        training.losses,
        *data.train,
        optimizer=optimizer,
        batch_size=training.batch_size,
        epochs=training.epochs,
        generator=generator,
        scheduler=training.schedule,
        on_epoch=_logging(data, training.losses),
        progress=f"Training {name}",
        keep_trajectory=STATES if _bytes(model) * STATES <= TRAJECTORY_BYTES else 0,
    )
    lr = float(optimizer.param_groups[0].get("initial_lr", optimizer.param_groups[0]["lr"]))
    recipe = Recipe(
        optimizer=optimizer,
        lr=lr if training.schedule is not None else None,
        batch_size=training.batch_size,
        epochs=training.epochs,
        build=training.build,
        schedule=training.schedule,
        initial_state=initial,
        history=history.series,
        trajectory=history.trajectory,
        trajectory_steps=history.trajectory_steps,
        seed=seed,
        notes={"planted wrong labels": len(data.flipped)} if len(data.flipped) else {},
    )
    return Specimen(model, objective, data.train, data.test, recipe, name=name)


def _bytes(model: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())


def _logging(data: DataSplit, losses: PerExample) -> OnEpoch:
    def measure(model: nn.Module, function: PerExample, part: tuple[Tensor, Tensor]) -> float:
        return mean_over(model, function, *part)

    def on_epoch(epoch: Epoch) -> dict[str, float]:
        values = {"test_loss": measure(epoch.model, losses, data.test)}
        if data.classes:
            values["train_error"] = measure(epoch.model, misclassified, data.train)
            values["test_error"] = measure(epoch.model, misclassified, data.test)
        return values

    return on_epoch
