"""A split of a specimen's data as plain tensors, one row an example, so that many networks can share a pass over it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torchstone import batches
from torchstone.batches import Batch
from torchstone.errors import NotApplicableError
from torchstone.objectives import Objective
from torchstone.specimen import Specimen

# Larger data are read batch by batch, which many networks at once cannot do.
MOST_BYTES = 2 * 2**30

OfBatch = Callable[[Tensor, Batch], Tensor]
"""From outputs (N, ...) and their batch to one row an example."""


@dataclass(frozen=True)
class ExampleTensors:
    """Tensors of all examples of a split, and how they make a batch again.

    Where the examples cannot be stacked (text, ragged or very large data) `x` holds row numbers, and the batches are read
    from the specimen: right, but for one network at a time.

    Args:
        specimen: Whose data.
        split: Which.
        x: Every tensor of a batch but the target, (N, ...) each; or row numbers (N,).
        y: The target (N, ...), an empty tensor (N, 0) where there is none, or the row numbers again.
        shape: A batch to rebuild others after; None where rows are read from the specimen.
        place: Where among a batch's tensors the target belongs; None where there is none.
    """

    specimen: Specimen
    split: str
    x: Any
    y: Tensor
    shape: Batch = None
    place: int | None = None

    @classmethod
    def of(cls, specimen: Specimen, split: str) -> ExampleTensors:
        """Stack a split, or keep row numbers of it."""
        rows = torch.arange(specimen.size(split), device=specimen.device)
        by_rows = cls(specimen, split, rows, rows)
        shape, parts, total = None, [], 0
        for batch in specimen.batches(split):
            leaves = list(batches.tensors(batch))
            count = specimen.objective.size(batch)
            total += batches.bytes_of(batch)
            if total > MOST_BYTES or not _stackable(batch) or any(t.shape[:1] != (count,) for t in leaves):
                return by_rows
            shape = batch if shape is None else shape
            parts.append(leaves)
        if shape is None or any(
            [t.shape[1:] for t in part] != [t.shape[1:] for t in parts[0]] for part in parts
        ):
            return by_rows
        target = specimen.objective.target(shape)
        place = next((i for i, leaf in enumerate(parts[0]) if leaf is target), None)
        stacked = [torch.cat(column) for column in zip(*parts, strict=True)]
        y = stacked.pop(place) if place is not None else stacked[0].new_zeros(len(rows), 0)
        return cls(specimen, split, stacked, y, shape, place)

    @property
    def replaceable(self) -> bool:
        """Whether targets of one's own can take the place of the data's."""
        return self.place is not None

    def replaced(self, labels: Tensor) -> Tensor:
        """Labels (K, N, ...) of K networks as the objective takes them.

        Raises:
            NotApplicableError: The target is no tensor of the batch.
        """
        if not self.replaceable:
            raise NotApplicableError(
                "needs a target that is a tensor of the batch, to put other labels in its place"
            )
        return labels.reshape(len(labels), *self.y.shape).to(self.y)

    def mapped(self, objective: Objective, function: OfBatch) -> Callable[[nn.Module, Any, Any], Tensor]:
        """A function of a network, and rows of `x` and `y`, out of one of outputs and their batch."""

        def of_tensors(network: nn.Module, x: Any, y: Tensor) -> Tensor:
            batch = self._batch(x, y)
            return function(objective.outputs(network, batch), batch)

        def of_rows(network: nn.Module, x: Tensor, _: Tensor) -> Tensor:
            order = x.sort()
            parts = [
                function(objective.outputs(network, batch), batch)
                for batch in self.specimen.batches(self.split, order.values.cpu())
            ]
            return torch.cat(parts)[order.indices.argsort()]

        return of_tensors if self.shape is not None else of_rows

    def _batch(self, x: list[Tensor], y: Tensor) -> Batch:
        leaves = list(x)
        if self.place is not None:
            leaves.insert(self.place, y)
        following = iter(leaves)
        return batches.map_tensors(lambda _: next(following), self.shape)


def _stackable(part: Any) -> bool:
    """Whether a batch holds nothing but tensors, so that its rows are the tensors' rows."""
    if isinstance(part, Tensor) or part is None:
        return True
    inner = batches.parts(part)
    return bool(inner) and all(_stackable(one) for one in inner)
