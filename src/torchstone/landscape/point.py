"""Places in weight space: the weights of a network as one vector, and the buffers that go with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from torchstone.errors import SettingError, SpecimenError
from torchstone.operators import ParameterSpace
from torchstone.specimen import Specimen


@dataclass(frozen=True)
class Point:
    """One place.

    Args:
        weights: All real parameters, float64 (D,), in the order of `every_parameter`.
        buffers: Values of buffers by name; those that are not named stay as they are.
    """

    weights: Tensor
    buffers: Mapping[str, Tensor] = field(default_factory=dict)


def every_parameter(specimen: Specimen) -> ParameterSpace:
    """All real floating-point parameters, frozen ones too: two trainings may differ in those.

    Raises:
        SpecimenError: There is none.
    """
    found = {
        name: parameter
        for name, parameter in specimen.model.named_parameters()
        if parameter.is_floating_point()
    }
    if not found:
        raise SpecimenError("A landscape needs at least one real parameter", "none", "Examine another model.")
    return ParameterSpace(tuple(found), tuple(found.values()))


def here(specimen: Specimen, space: ParameterSpace) -> Point:
    """Where the network is."""
    weights = space.flatten([parameter.detach() for parameter in space.parameters])
    return Point(weights, {name: buffer.detach().clone() for name, buffer in _real_buffers(specimen).items()})


def from_state(specimen: Specimen, space: ParameterSpace, state: Mapping[str, Tensor]) -> Point:
    """The place that a state (`state_dict()`, a checkpoint) describes.

    Frozen parameters and buffers that the state leaves out keep their present values.

    Raises:
        SettingError: A trainable parameter is missing, or has another shape; the message names it.
    """
    parts = []
    for name, parameter in zip(space.names, space.parameters, strict=True):
        given = state.get(name)
        if given is None and not parameter.requires_grad:
            given = parameter
        if given is None or given.shape != parameter.shape:
            raise SettingError(
                f"A state must hold {name} of shape {tuple(parameter.shape)}",
                "nothing of that name" if given is None else f"shape {tuple(given.shape)}",
                "Pass model.state_dict() of the same architecture.",
            )
        parts.append(given.detach().to(parameter.device))
    buffers = {
        name: state[name].detach().to(buffer) if name in state else buffer.detach().clone()
        for name, buffer in _real_buffers(specimen).items()
        if name not in state or state[name].shape == buffer.shape
    }
    return Point(space.flatten(parts), buffers)


def _real_buffers(specimen: Specimen) -> dict[str, Tensor]:
    return {name: buffer for name, buffer in specimen.model.named_buffers() if buffer.is_floating_point()}


def between(start: Mapping[str, Tensor], end: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Buffers on the way from `start` to `end`; never beyond, where variances would turn negative."""
    share = min(1.0, max(0.0, share))
    mixed = {}
    for name in start.keys() & end.keys():
        mixed[name] = end[name] if share == 1 else start[name]
        if 0 < share < 1 and not torch.equal(start[name], end[name]):
            mixed[name] = (1 - share) * start[name] + share * end[name]
    return mixed
