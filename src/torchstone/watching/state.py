"""What quantities look at after a step: the parameters' gradients, their change, and a probe of data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from torchstone.watching.record import Alert
from torchstone.workbench import Workbench

NO_GRADIENT = -1.0
HALF = (torch.float16, torch.bfloat16)


@dataclass
class State:
    """One optimiser step.

    Attributes:
        step: Counted from 1.
        loss: Mean training loss since the last record; None where none was given.
        names: Trainable parameters' names.
        parameters: The parameters, after the step.
        gradient_norms: Of each parameter's gradient as the optimiser saw it, unscaled; `NO_GRADIENT` where it had none; None where
            it took no step.
        before: The parameters before the step; None likewise, and after `take_updates` where nothing else needs them.
        optimizer: The optimiser.
        bench: The probe, or None; its model is the one that trains.
        shared: Whether more than one quantity needs `before`.
    """

    step: int
    loss: float | None
    names: tuple[str, ...]
    parameters: tuple[nn.Parameter, ...]
    gradient_norms: tuple[float, ...] | None
    before: tuple[Tensor, ...] | None
    optimizer: Optimizer
    bench: Workbench | None
    shared: bool = True

    @torch.no_grad()
    def take_updates(self) -> list[Tensor]:
        """W' - w of every parameter, in the memory of `before` unless that is shared: new memory costs as much as the sum."""
        assert self.before is not None
        pairs = list(zip(self.parameters, self.before, strict=True))
        if self.shared:
            return [after - before for after, before in pairs]
        self.before = None
        return [torch.sub(after, before, out=before) for after, before in pairs]

    @cached_property
    def weight_norms(self) -> list[float]:
        """Norms of the parameters, computed once however many quantities ask."""
        return norms([parameter.detach() for parameter in self.parameters])

    @cached_property
    def is_finite(self) -> bool:
        """Whether the loss and all weights are."""
        return all(map(math.isfinite, (*self.weight_norms, 0.0 if self.loss is None else self.loss)))


@dataclass
class Measured:
    """What a quantity found."""

    values: dict[str, float] = field(default_factory=dict)
    layers: dict[str, dict[str, float]] = field(default_factory=dict)
    alerts: list[Alert] = field(default_factory=list)

    def checked(self) -> Measured:
        """Names as texts and values as floats, so that every logger can write them.

        Raises:
            TypeError: A value is no number.
        """
        values = _numbers(self.values)
        return Measured(
            values, {str(name): _numbers(parts) for name, parts in self.layers.items()}, self.alerts
        )


def _numbers(values: Mapping[Any, Any]) -> dict[str, float]:
    numbers = {}
    for name, value in values.items():
        try:
            numbers[str(name)] = float(value)
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(f"{name} must be a number; got {type(value).__name__} {value!r}"[:200]) from None
    return numbers


def norms(tensors: Sequence[Tensor]) -> list[float]:
    """Euclidean norms in one fused pass and one transfer."""
    return stacked_norms(tensors).tolist() if tensors else []


def stacked_norms(tensors: Sequence[Tensor]) -> Tensor:
    """The norms of at least one tensor as a vector where they lie, so that nothing waits for a device."""
    dense = [one.coalesce().values() if one.is_sparse else one for one in tensors]
    wide = [one.float() if one.dtype in HALF else one for one in dense]
    real = not any(one.is_complex() or one.device.type != "cpu" for one in wide)
    if real and all(one.is_contiguous() and one.dtype == wide[0].dtype for one in wide):
        # PyTorch's norms use one thread on the CPU, its dot products all of them.
        return torch.stack([torch.dot(one.view(-1), one.view(-1)) for one in wide]).sqrt_()
    return torch.stack(torch._foreach_norm(wide))  # pyright: ignore[reportPrivateImportUsage]
