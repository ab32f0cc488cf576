"""Autograd graphs of a specimen's batches: kept from product to product where they fit, built anew where not."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from torchstone.batches import Batch
from torchstone.operators.double_backward import twice_differentiable
from torchstone.operators.parameter_space import ParameterSpace
from torchstone.specimen import Specimen

Graph = TypeVar("Graph")


class KeptGraphs(Generic[Graph]):
    """What products with a curvature matrix need of each batch.

    The first batch's graph is weighed (the tensors it saves, counted once each); if all of them fit the budget they
    are kept, which saves a forward and a backward pass a product. They are dropped when a parameter is updated in place.

    Args:
        specimen: The specimen.
        split: Part of the data.
        space: Parameters that are differentiated.
        build: Makes the graph of a batch; called inside `measuring()` with gradients enabled.
        memory_bytes: Budget for all graphs together.

    Attributes:
        position: Number of the batch that is worked on, among this process's.
    """

    def __init__(
        self,
        specimen: Specimen,
        split: str,
        space: ParameterSpace,
        build: Callable[[Batch], Graph],
        memory_bytes: int,
    ) -> None:
        self.specimen, self.split, self.space = specimen, split, space
        self.build, self.memory_bytes = build, memory_bytes
        self.fits: bool | None = None
        self.position = 0
        self._kept: dict[int, Graph] = {}
        self._versions = space.versions

    def mean(self, product: Callable[[Graph, Batch], Tensor]) -> Tensor:
        """Sum of `product(graph, batch)` over the batches divided by the number of examples, in float64."""
        if self._versions != self.space.versions:
            self._kept, self._versions = {}, self.space.versions
        position = -1

        def of_batch(batch: Batch) -> Tensor:
            nonlocal position
            position += 1
            return product(self._graph(position, batch), batch)

        with (
            self.specimen.measuring(),
            twice_differentiable(self.specimen.model, self.specimen.device),
            torch.enable_grad(),
        ):
            return self.specimen.mean_over(of_batch, self.split)

    def _graph(self, position: int, batch: Batch) -> Graph:
        self.position = position
        if position in self._kept:
            return self._kept[position]
        if self.fits is None:
            share = self.specimen.objective.size(batch) / self.specimen.size(self.split)
            mine = math.ceil(1 / share / self.specimen.processes.count)
            self.fits = self._bytes(batch) * mine <= self.memory_bytes
        graph = self.build(batch)
        if self.fits:
            self._kept[position] = graph
        return graph

    def _bytes(self, batch: Batch) -> int:
        """Memory of one batch's graph, its gradient included and the parameters, which exist anyway, not."""
        known = {parameter.untyped_storage().data_ptr() for parameter in self.space.parameters}
        sizes: dict[int, int] = {}

        def see(tensor: Tensor) -> Tensor:
            if tensor.layout == torch.strided and tensor.untyped_storage().data_ptr() not in known:
                sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            # Detached: a hook that returned a node's own output would tie node and tensor into a cycle that C++ holds.
            return tensor.detach()

        with torch.autograd.graph.saved_tensors_hooks(see, _as_it_is):
            graph = self.build(batch)
        del graph
        return sum(sizes.values()) + self.space.bytes

    def drop(self) -> None:
        """Forget the graphs."""
        self._kept = {}


def _as_it_is(tensor: Any) -> Any:
    return tensor
