"""Putting a network elsewhere in weight space, and getting it back untouched."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch

from torchstone.landscape.point import Point
from torchstone.operators import ParameterSpace
from torchstone.specimen import Specimen


@contextlib.contextmanager
def moving(specimen: Specimen, space: ParameterSpace) -> Iterator[Callable[[Point], None]]:
    """Inside, the function that is yielded puts the network at a point; on leaving it is where it was.

    Parameters and buffers get spare storage inside the block, so that the user's own is never written to: whatever ends
    the block, KeyboardInterrupt included, the old storage comes back with every bit as it was.

    Memory: one copy of the parameters and buffers.

    Args:
        specimen: Whose network is moved. Call inside `specimen.measuring()`.
        space: The parameters that points give values for.
    """
    buffers = dict(specimen.model.named_buffers())
    tensors = [*space.parameters, *buffers.values()]
    kept = [tensor.data for tensor in tensors]
    spare = [torch.empty_like(data).copy_(data) for data in kept]
    parameters = spare[: len(space.parameters)]
    places = dict(
        zip(buffers, zip(spare[len(parameters) :], kept[len(parameters) :], strict=True), strict=True)
    )

    @torch.no_grad()
    def put(point: Point) -> None:
        for target, part in zip(parameters, torch.split(point.weights, list(space.sizes)), strict=True):
            target.copy_(part.view(target.shape))
        for name, (target, own) in places.items():
            target.copy_(point.buffers.get(name, own))

    try:
        for tensor, storage in zip(tensors, spare, strict=True):
            tensor.data = storage
        yield put
    finally:
        for tensor, storage in zip(tensors, kept, strict=True):
            tensor.data = storage
