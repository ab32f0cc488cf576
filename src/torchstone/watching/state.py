"""What quantities look at after a step: the parameters' gradients, their change, and a probe of data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from torchstone.watching.record import Alert
from torchstone.workbench import Workbench


@dataclass
class State:
    """One optimiser step.

    Attributes:
        step: Counted from 1.
        loss: Mean training loss since the last record; None where none was given.
        names: Trainable parameters' names.
        parameters: The parameters, after the step.
        gradients: As the optimiser saw them, unscaled; None where it took no step, or one parameter had none.
        before: The parameters before the step; None likewise.
        optimizer: The optimiser.
        bench: The probe, or None; its model is the one that trains.
    """

    step: int
    loss: float | None
    names: tuple[str, ...]
    parameters: tuple[nn.Parameter, ...]
    gradients: tuple[Tensor | None, ...] | None
    before: tuple[Tensor, ...] | None
    optimizer: Optimizer
    bench: Workbench | None


@dataclass
class Measured:
    """What a quantity found."""

    values: dict[str, float] = field(default_factory=dict)
    layers: dict[str, dict[str, float]] = field(default_factory=dict)
    alerts: list[Alert] = field(default_factory=list)


def norms(tensors: Sequence[Tensor]) -> list[float]:
    """Euclidean norms in one fused pass and one transfer."""
    dense = [one.coalesce().values() if one.is_sparse else one for one in tensors]
    wide = [one.float() if one.dtype in _HALF else one for one in dense]
    found = torch._foreach_norm(wide)  # pyright: ignore[reportPrivateImportUsage]
    return torch.stack([norm.float() for norm in found]).tolist() if found else []


_HALF = (torch.float16, torch.bfloat16)
