"""How a network was trained, as far as its owner says."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from torchstone.details import number
from torchstone.errors import SettingError

OptimizerFactory = Callable[[Any], Optimizer]


@dataclass(frozen=True)
class Recipe:
    """The training recipe of a specimen. Everything is optional; instruments say what they miss.

    Args:
        optimizer: The optimiser after training (its state holds Adam's preconditioner), or a function of the
            parameters that makes a fresh one, which is what retraining needs.
        lr: Learning rate, where there is no live optimiser to read it from.
        momentum: Heavy-ball coefficient, likewise.
        batch_size: Examples in a minibatch.
        epochs: Passes over the training set.
        build: Makes an untrained network of the same shape, drawing from the `generator` it is given, or without that
            argument from the global one, which is seeded for it.
        schedule: Makes a learning-rate scheduler for an optimiser.
        penalty: Regulariser: from the network to a number that was added to the mean loss of each batch.
        initial_state: Parameters before training, by name, for distances from initialisation.
        history: What was logged, one value an epoch: "train_loss", "train_error", "test_loss", "test_error",
            "margin", "norm".
        trajectory: States along the training run, the first before it and the last its result: `state_dict()`s, or
            paths of safetensors files, which are read when they are needed.
        trajectory_steps: Updates made before each of them, for the axis of a plot.
        seed: Seed of the training run.
        notes: Anything else worth showing in the report.
    """

    optimizer: Optimizer | OptimizerFactory | None = None
    lr: float | None = None
    momentum: float | None = None
    batch_size: int | None = None
    epochs: int | None = None
    build: Callable[..., nn.Module] | None = None
    schedule: Callable[[Optimizer], Any] | None = None
    penalty: Callable[[nn.Module], Tensor] | None = None
    initial_state: Mapping[str, Tensor] | None = None
    history: Mapping[str, Sequence[float]] = field(default_factory=dict)
    trajectory: Sequence[Mapping[str, Tensor] | str | Path] = ()
    trajectory_steps: Sequence[int] = ()
    seed: int | None = None
    notes: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, checked in CHECKED.items():
            if getattr(self, name) is not None:
                object.__setattr__(self, name, checked(name, getattr(self, name)))
        if self.lr is not None and not self.lr > 0:
            raise SettingError(
                "Recipe.lr must be positive", repr(self.lr), "Pass the learning rate of the last step."
            )
        if self.momentum is not None and not 0 <= self.momentum < 1:
            raise SettingError(
                "Recipe.momentum must lie in [0, 1)", repr(self.momentum), "Pass the coefficient."
            )
        if not (self.optimizer is None or isinstance(self.optimizer, Optimizer) or callable(self.optimizer)):
            raise SettingError(
                "Recipe.optimizer must be an optimizer, or a function of the parameters that makes one",
                type(self.optimizer).__name__,
                "Pass the optimizer after training, or lambda parameters: torch.optim.SGD(parameters, lr=0.1).",
            )
        if self.trajectory_steps and len(self.trajectory_steps) != len(self.trajectory):
            raise SettingError(
                "Recipe.trajectory_steps needs one number for each state of the trajectory",
                f"{len(self.trajectory_steps)} for {len(self.trajectory)} states",
                "Pass the updates made before each.",
            )
        lengths = {len(series) for series in self.history.values()}
        if len(lengths) > 1:
            raise SettingError(
                "Recipe.history needs one value an epoch in every series",
                f"lengths {sorted(lengths)}",
                "Cut them.",
            )

    @property
    def live_optimizer(self) -> Optimizer | None:
        """The optimiser with its state, where one was given."""
        return self.optimizer if isinstance(self.optimizer, Optimizer) else None

    @property
    def learning_rates(self) -> tuple[float, ...]:
        """One learning rate a parameter group; empty where unknown."""
        if self.lr is not None:
            return (self.lr,)
        if self.live_optimizer is not None:
            return tuple(float(group["lr"]) for group in self.live_optimizer.param_groups)
        return ()

    @property
    def heavy_ball(self) -> float:
        """Momentum coefficient: as said, else the optimiser's, else 0."""
        if self.momentum is not None:
            return self.momentum
        if self.live_optimizer is not None:
            return float(self.live_optimizer.param_groups[0].get("momentum", 0.0))
        return 0.0

    @property
    def optimizer_name(self) -> str:
        """Class name of the optimiser, or an empty string."""
        return type(self.live_optimizer).__name__ if self.live_optimizer is not None else ""

    def card(self) -> dict[str, str | int | float | bool | None]:
        """What the report shows of it."""
        known = {
            "optimizer": self.optimizer_name or None,
            "learning rate": self.learning_rates[0] if self.learning_rates else None,
            "momentum": self.heavy_ball or None,
            "batch size": self.batch_size,
            "epochs": self.epochs,
            "seed": self.seed,
            **self.notes,
        }
        return {key: _shown(value) for key, value in known.items() if value is not None}


def _real(name: str, value: Any) -> float:
    """A finite Python float out of a number, or a NumPy or torch scalar."""
    try:
        real = float(value)
    except (TypeError, ValueError, RuntimeError):
        real = math.nan
    if isinstance(value, str | bool) or not math.isfinite(real):
        raise SettingError(f"Recipe.{name} must be a finite number", repr(value), "Pass a float.")
    return real


def _count(name: str, value: Any) -> int:
    """A Python integer of at least 1 out of one of any library."""
    try:
        count = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        count = 0
    if count < 1:
        raise SettingError(f"Recipe.{name} must be a whole number, at least 1", repr(value), "Pass an int.")
    return count


def _function(name: str, value: Any) -> Any:
    if not callable(value):
        raise SettingError(
            f"Recipe.{name} must be a function", type(value).__name__, "See the documentation of Recipe."
        )
    return value


def _seed(name: str, value: Any) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise SettingError(f"Recipe.{name} must be a whole number", repr(value), "Pass an int.")
    return operator.index(value)


CHECKED: Mapping[str, Callable[[str, Any], Any]] = {
    **dict.fromkeys(("lr", "momentum"), _real),
    **dict.fromkeys(("batch_size", "epochs"), _count),
    "seed": _seed,
    **dict.fromkeys(("build", "schedule", "penalty"), _function),
}


def _shown(value: Any) -> str | int | float | bool | None:
    """A fact as JSON can hold it."""
    plain = value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value
    if isinstance(plain, bool | int | str):
        return plain
    return number(plain) if isinstance(plain, float) else str(plain)
