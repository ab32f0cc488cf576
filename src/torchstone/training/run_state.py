"""Everything a training run must remember between two epochs, as tensors that a checkpoint can hold."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from torchstone.linalg.checkpoint import digest
from torchstone.training.snapshots import Snapshots

Series = dict[str, tuple[float, ...]]


@dataclass
class RunState:
    """What changes from epoch to epoch.

    Args:
        model: The network.
        optimizer: Its optimiser.
        scheduler: Its schedule, or None.
        scaler: Of the loss in float16.
        generator: Draws the orders.
        kept: States along the way.
        series: One value an epoch by name.
        notes: What was noted in each epoch.
        steps: Updates made.
        stopped: Whether a rule ended the run.
    """

    model: nn.Module
    optimizer: Optimizer
    scheduler: Any
    scaler: Any
    generator: torch.Generator
    kept: Snapshots
    series: Series = field(default_factory=lambda: {"train_loss": ()})
    notes: list[Tensor] = field(default_factory=list)
    steps: int = 0
    stopped: bool = False

    def tensors(self) -> dict[str, Tensor]:
        """The state as named tensors: the network's readable, the rest as one blob."""
        buffer = io.BytesIO()
        rest = {
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler is not None else None,
            "scaler": self.scaler.state_dict(),
            "generator": self.generator.get_state(),
            "kept": self.kept.states,
            "series": self.series,
            "notes": self.notes,
            "steps": self.steps,
            "stopped": self.stopped,
        }
        torch.save(rest, buffer)
        blob = torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)
        return {**{f"model.{name}": value.clone() for name, value in _named(self.model).items()}, "run": blob}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Go back to a state that `tensors` gave."""
        with torch.no_grad():
            for name, value in _named(self.model).items():
                value.copy_(tensors[f"model.{name}"])
        rest = torch.load(io.BytesIO(tensors["run"].numpy().tobytes()), weights_only=True)
        self.optimizer.load_state_dict(rest["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(rest["scheduler"])
        self.scaler.load_state_dict(rest["scaler"])
        self.generator.set_state(rest["generator"])
        self.kept.restore(*rest["kept"])
        self.series = dict(rest["series"])
        self.notes = list(rest["notes"])
        self.steps, self.stopped = rest["steps"], rest["stopped"]


def fingerprint(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> dict[str, str]:
    """What a run starts from: weights, data and the state of its generator, as short digests."""
    weights = hashlib.sha256("".join(digest(value) for value in _named(model).values()).encode()).hexdigest()
    return {
        "weights": weights[:16],
        "data": digest(x) + digest(y),
        "generator": digest(generator.get_state()),
    }


def _named(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in (*model.named_parameters(), *model.named_buffers())}
