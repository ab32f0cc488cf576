"""Jacobians that are block-diagonal: of what a batch makes of itself, in something of the same batch."""

from __future__ import annotations

import copy
import itertools
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.batches import Batch
from torchstone.errors import SettingError
from torchstone.linalg import FunctionMap, LinearMap
from torchstone.operators.column_gradients import ColumnGradients
from torchstone.operators.differentiated_map import DifferentiatedMap
from torchstone.operators.kept_graphs import KeptGraphs
from torchstone.specimen import Specimen

Rows = Tensor | int | None
"""Which examples: increasing indices, a single one, or None for all."""


@dataclass
class _Linearised:
    """One batch: target, source, and the pull-back of the one to the other as a function of the cotangent."""

    target: Tensor
    source: Tensor
    cotangent: Tensor | None = None
    pulled: Tensor | None = None


class BatchJacobian(DifferentiatedMap):
    """d target / d source, with both computed from the same batch: block-diagonal over batches.

    Block-diagonal over examples too, unless the network mixes them (batch statistics in training mode).

    Args:
        specimen: What is examined.
        split: Part of the data.
        rows: Only these examples.
        memory_bytes: Budget for kept graphs.

    Raises:
        SettingError: Rows that are not increasing indices of examples.
    """

    def __init__(self, specimen: Specimen, split: str, rows: Rows, memory_bytes: int) -> None:
        specimen = restricted(specimen, split, rows)
        self.specimen = specimen
        with torch.enable_grad():
            sizes = specimen.map_over(self._sizes, split)
        self._heights, self._widths = (
            [0, *itertools.accumulate(column)] for column in sizes[:, :2].T.tolist()
        )
        shape = (self._heights[-1], self._widths[-1])
        dtype = torch.float64 if bool(sizes[:, 2].any()) else torch.float32
        super().__init__(specimen, split, shape, dtype, specimen.device)
        self._graphs = KeptGraphs(specimen, split, self._linearise, memory_bytes, linear=True)
        self._columns = ColumnGradients(specimen, memory_bytes)
        self._transposed = False

    @abstractmethod
    def _link(self, batch: Batch, forward: Callable[[Batch], Tensor]) -> tuple[Tensor, Tensor]:
        """Target and source of a batch; the source requires a gradient, and the target was computed from it.

        Args:
            batch: The examples.
            forward: Runs the network on them.
        """

    def _sizes(self, batch: Batch) -> Tensor:
        target, source = self._link(batch, self.specimen.forward)
        return torch.tensor([[target.numel(), source.numel(), source.dtype == torch.float64]])

    def _linearise(self, batch: Batch) -> _Linearised:
        target, source = self._link(batch, self._graphs.forward)
        light = self._transposed and self._graphs.fits is False
        if light or not target.requires_grad:
            return _Linearised(target, source)
        cotangent = torch.zeros_like(target, requires_grad=True)
        (pulled,) = self.specimen.grad(
            target, (source,), batch, grad_outputs=cotangent, create_graph=True, retain_graph=True
        )
        return _Linearised(target, source, cotangent, pulled)

    def _by_double_backward(self, X: Float[Tensor, "n k"]) -> Float[Tensor, "m k"]:
        def pushed(graph: _Linearised, batch: Batch) -> Tensor:
            if graph.cotangent is None or graph.pulled is None or not graph.pulled.requires_grad:
                return torch.zeros(graph.target.numel(), X.shape[1], dtype=torch.float64)
            along = _shaped(X, self._widths, self._graphs.number, graph.source)
            weight = self._graphs.weight
            (found,) = self._columns((graph.pulled,), (graph.cotangent,), batch, (along,), weight)
            return found.flatten(1).T.double()

        return self._graphs.rows(pushed).to(self.device)

    def _transpose(self) -> LinearMap:
        return FunctionMap(
            self._pull,
            (self.shape[1], self.shape[0]),
            self.dtype,
            self.device,
            block=True,
            transpose=self.matmat,
        )

    def _pull(self, U: Float[Tensor, "m k"]) -> Float[Tensor, "n k"]:
        """J^T U."""

        def pulled(graph: _Linearised, batch: Batch) -> Tensor:
            if not graph.target.requires_grad:
                return torch.zeros(graph.source.numel(), U.shape[1], dtype=torch.float64)
            cotangents = _shaped(U, self._heights, self._graphs.number, graph.target)
            weight = self._graphs.weight
            (found,) = self._columns((graph.target,), (graph.source,), batch, (cotangents,), weight)
            return found.flatten(1).T.double()

        self._transposed = True
        try:
            return self._graphs.rows(pulled).to(dtype=self.dtype, device=self.device)
        finally:
            self._transposed = False

    def _forget(self) -> None:
        self._graphs.drop()

    def _differentiated(self, batch: Batch) -> Tensor:
        return self._link(batch, self.specimen.forward)[0]


def _shaped(X: Tensor, starts: list[int], number: int, like: Tensor) -> Float[Tensor, "k ..."]:
    """The rows of X that belong to one batch, as k tensors."""
    return X[starts[number] : starts[number + 1]].T.reshape(-1, *like.shape).to(like.dtype)


def restricted(specimen: Specimen, split: str, rows: Rows) -> Specimen:
    """The specimen with only some examples in a split; itself where `rows` is None.

    Raises:
        SettingError: Rows that are not increasing indices of examples.
    """
    if rows is None:
        return specimen
    size = specimen.size(split)
    chosen = torch.tensor([rows]) if isinstance(rows, int) else rows
    whole = chosen.ndim == 1 and len(chosen) > 0 and chosen.dtype in (torch.int64, torch.int32)
    if not whole or int(chosen[0]) < 0 or int(chosen[-1]) >= size or bool((chosen.diff() <= 0).any()):
        raise SettingError(
            f"rows are increasing indices of {split} examples, 0 to {size - 1}",
            f"{chosen.tolist()[:5] if chosen.ndim == 1 else tuple(chosen.shape)} ({chosen.dtype})",
            "Pass an index, torch.arange(10), or None for all.",
        )
    part = copy.copy(specimen)
    part.splits = {**specimen.splits, split: specimen.split(split).take(chosen.cpu())}
    return part
