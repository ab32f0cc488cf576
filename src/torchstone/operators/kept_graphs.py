"""Autograd graphs of a specimen's batches: kept from product to product where they fit, built anew where not."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from torchstone.batches import Batch
from torchstone.errors import SpecimenError
from torchstone.operators.double_backward import twice_differentiable
from torchstone.operators.efficient_derivatives import DerivativesOfAnyOrder, EfficientDerivatives
from torchstone.operators.model_state import ModelState
from torchstone.specimen import Specimen

Graph = TypeVar("Graph")


@dataclass(frozen=True)
class GraphWeight:
    """What one batch's graph holds.

    Args:
        bytes: Memory of the tensors it saves, counted once each, without parameters, which exist anyway.
        saves: Number of times that a node saves a tensor.
        parameters: Memory of the parameters.
    """

    bytes: int
    saves: int
    parameters: int


class KeptGraphs(Generic[Graph]):
    """What products with a matrix of derivatives need of each batch.

    The first batch's graph is weighed; if all of them fit the budget they are kept, which saves a forward and a backward
    pass a product. They are dropped when a parameter or buffer of the model has changed, in whatever way. One batch's
    graph is always built, however small the budget: smaller batches make it smaller.

    Args:
        specimen: The specimen.
        split: Part of the data.
        build: Makes the graph of a batch; called inside `measuring()` with gradients enabled.
        memory_bytes: Budget for all graphs together.
        extra_bytes: Memory of what `build` returns besides the tensors that its graph saves.
        linear: The graphs are those of J^T u, and differentiated in u alone.

    Attributes:
        fits: Whether the graphs are kept; None before the first product.
        weight: Of the first batch's graph; None before the first product, and where it cannot be found out.
        efficient: Whether `forward` uses `EfficientDerivatives`.
        position: Number of the batch in hand among this process's.
    """

    def __init__(
        self,
        specimen: Specimen,
        split: str,
        build: Callable[[Batch], Graph],
        memory_bytes: int,
        extra_bytes: int = 0,
        *,
        linear: bool = False,
    ) -> None:
        self.specimen, self.split = specimen, split
        self._build, self.memory_bytes, self.extra_bytes = build, memory_bytes, extra_bytes
        self.linear = linear
        self.fits: bool | None = None
        self.weight: GraphWeight | None = None
        self.efficient, self.position = True, 0
        self._kept: dict[int, Graph] = {}
        self._then: ModelState | None = None

    def mean(self, product: Callable[[Graph, Batch], Tensor]) -> Tensor:
        """Sum of `product(graph, batch)`, a new tensor each, over the batches divided by the number of examples.

        In float64; where there is one batch, in its dtype: rounding the quotient in float64 to float32 gives the quotient
        in float32, since 53 digits are more than twice 24.
        """
        with self._differentiating():
            return self.specimen.mean_over(self._on_graphs(product), self.split, given=True)

    def sum(self, product: Callable[[Graph, Batch], Tensor]) -> Tensor:
        """Sum of `product(graph, batch)` over the batches, in float64."""
        with self._differentiating():
            return self.specimen.sum_over(self._on_graphs(product), self.split)

    def rows(self, product: Callable[[Graph, Batch], Tensor]) -> Tensor:
        """Rows of `product(graph, batch)` of all batches together, on the CPU."""
        with self._differentiating():
            return self.specimen.map_over(self._on_graphs(product), self.split)

    @property
    def number(self) -> int:
        """Number of the batch in hand among all of the split's."""
        processes = self.specimen.processes
        return processes.rank + self.position * processes.count

    @contextlib.contextmanager
    def _differentiating(self) -> Iterator[None]:
        if self._then is not None and not self._then.holds():
            self.drop()
        if self._then is None and self.fits is not False:
            self._then = ModelState(self.specimen.model)
        with (
            self.specimen.measuring(),
            twice_differentiable(self.specimen.model, self.specimen.device),
            torch.enable_grad(),
        ):
            yield

    def _on_graphs(self, product: Callable[[Graph, Batch], Tensor]) -> Callable[[Batch], Tensor]:
        position = -1

        def of_batch(batch: Batch) -> Tensor:
            nonlocal position
            position += 1
            return product(self._graph(position, batch), batch)

        return of_batch

    def _graph(self, position: int, batch: Batch) -> Graph:
        self.position = position
        if position in self._kept:
            return self._kept[position]
        if self.fits is None:
            share = self.specimen.objective.size(batch) / self.specimen.size(self.split)
            mine = math.ceil(1 / share / self.specimen.processes.count)
            self.weight = self._weigh(batch)
            heavy = self.weight is None or (self.weight.bytes + self.extra_bytes) * mine > self.memory_bytes
            self.fits = not heavy
            if heavy:
                self._then = None
        graph = self._built(batch)
        if self.fits:
            self._kept[position] = graph
        return graph

    def forward(self, batch: Batch) -> Tensor:
        """The network's outputs on a batch, by formulas that are cheap to differentiate where it allows them."""
        with EfficientDerivatives(self.linear) if self.efficient else DerivativesOfAnyOrder():
            return self.specimen.forward(batch)

    def _built(self, batch: Batch) -> Graph:
        if self.efficient:
            try:
                return self._build(batch)
            except (RuntimeError, SpecimenError):
                # Differentiated inside forward(), or overwritten in place where only PyTorch's own formulas allow it; the
                # network's own fault is told by what follows.
                self.efficient = False
        return self._build(batch)

    def _weigh(self, batch: Batch) -> GraphWeight | None:
        known = {one.untyped_storage().data_ptr(): _bytes(one) for one in self.specimen.model.parameters()}
        sizes: dict[int, int] = {}
        saves = 0

        def see(tensor: Tensor) -> Tensor:
            nonlocal saves
            saves += 1
            if tensor.layout == torch.strided and tensor.untyped_storage().data_ptr() not in known:
                sizes[tensor.untyped_storage().data_ptr()] = _bytes(tensor)
            # Detached: a hook that returned a node's own output would tie node and tensor into a cycle that C++ holds.
            return tensor.detach()

        try:
            with torch.autograd.graph.saved_tensors_hooks(see, _as_it_is):
                graph = self._built(batch)
        except RuntimeError as error:
            if not any(words in str(error) for words in ("saved tensor hooks", "invalid python storage")):
                raise
            return None  # the network calls torch.func itself, which allows no such hooks or hides its memory
        del graph
        return GraphWeight(sum(sizes.values()), saves, sum(known.values()))

    def drop(self) -> None:
        """Forget the graphs."""
        self._kept, self._then = {}, None


def _bytes(tensor: Tensor) -> int:
    return tensor.untyped_storage().nbytes()


def _as_it_is(tensor: Any) -> Any:
    return tensor
