"""A data set as batches in a fixed order, whatever it was given as."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from torchstone import batches
from torchstone.batches import Batch
from torchstone.errors import SpecimenError
from torchstone.objectives.base import Objective
from torchstone.specimen.protection import keeping_random_states


class Split:
    """One part of the data (training, test, shifted): an iterable of batches that can be read again.

    Args:
        name: "train", "test" or "shifted".
        source: Whole data as one batch to slice (`rows=True`), or a re-iterable of batches.
        objective: Knows how to count and slice the examples of a batch.
        batch_size: Examples a batch, where the source is sliced.
        rows: Whether `source` is one big batch.
        total: Examples it was drawn from, where it is a subsample.
        stored: Whether the batches lie in memory, so that every pass is the same.
    """

    def __init__(
        self,
        name: str,
        source: Any,
        objective: Objective,
        batch_size: int,
        *,
        rows: bool,
        stored: bool,
        total: int | None = None,
    ) -> None:
        self.name, self.source, self.objective = name, source, objective
        self.batch_size, self.rows, self.stored = batch_size, rows, stored
        self._size: int | None = objective.size(source) if rows else None
        self._total = total

    @classmethod
    def of(cls, name: str, data: Any, objective: Objective, batch_size: int) -> Split:
        """A split from whatever a user may pass.

        A tensor, tuple, mapping or dataclass of tensors is the whole data set, one row an example. A `TensorDataset`
        likewise; any other map-style `Dataset` is read in order with the default collation. A `DataLoader`, a list, or
        any other re-iterable yields batches.

        Raises:
            SpecimenError: Empty, readable only once, or nothing of the above.
        """
        if isinstance(data, TensorDataset):
            data = tuple(data.tensors)
        is_rows = (
            isinstance(data, Tensor | tuple | Mapping)
            or (dataclasses.is_dataclass(data) and not isinstance(data, type))
        ) and any(True for _ in batches.tensors(data))
        if is_rows:
            split = cls(name, data, objective, batch_size, rows=True, stored=True)
            if split.size == 0:
                raise _empty(name)
            return split
        if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
            data = DataLoader(data, batch_size=batch_size)
        if not isinstance(data, Iterable) or isinstance(data, str | bytes | Mapping):
            raise SpecimenError(
                f"{name} data must be tensors, a Dataset, a DataLoader or a re-iterable of batches",
                type(data).__name__,
                "Pass for example (inputs, labels) or a DataLoader.",
            )
        with keeping_random_states():
            one_shot = iter(data) is data
        if one_shot:
            raise SpecimenError(
                f"{name} data must be readable more than once",
                f"a one-shot {type(data).__name__}",
                "Pass list(...) of it, or a DataLoader.",
            )
        return cls(name, data, objective, batch_size, rows=False, stored=isinstance(data, list))

    def __iter__(self) -> Iterator[Batch]:
        if not self.rows:
            yield from self.source
            return
        for start in range(0, self.size, self.batch_size):
            stop = min(start + self.batch_size, self.size)
            yield self.objective.take(self.source, torch.arange(start, stop))

    @property
    def size(self) -> int:
        """Number of examples; counts a stream once."""
        if self._size is None:
            with keeping_random_states():
                self._size = sum(self.objective.size(batch) for batch in self)
            if self._size == 0:
                raise _empty(self.name)
        return self._size

    @property
    def bytes_per_example(self) -> float:
        """Memory that an example of the first batch takes."""
        batch = self.first()
        return max(1, batches.bytes_of(batch)) / max(1, self.objective.size(batch))

    @property
    def total(self) -> int:
        """Number of examples the split was drawn from."""
        return self._total if self._total is not None else self.size

    def first(self) -> Batch:
        """The first batch.

        Raises:
            SpecimenError: There is none.
        """
        with keeping_random_states():
            for batch in self:
                return batch
        raise _empty(self.name)

    def in_memory(self, budget: int) -> Split | None:
        """The same split with its batches stored, or None where they exceed `budget` bytes."""
        if self.stored:
            return self
        stored, used = [], 0
        for batch in self.source:
            used += batches.bytes_of(batch)
            if used > budget:
                return None
            # Copied, because some loaders refill the same tensors.
            stored.append(batches.map_tensors(lambda tensor: tensor.detach().clone(), batch))
        if not stored:
            raise _empty(self.name)
        return Split(
            self.name, stored, self.objective, self.batch_size, rows=False, stored=True, total=self._total
        )

    def sample(self, count: int, generator: torch.Generator) -> Split:
        """At most `count` examples, drawn without replacement, in their original order."""
        if count >= self.size:
            return self
        chosen = torch.randperm(self.size, generator=generator)[:count].sort().values
        return self.take(chosen)

    def take(self, indices: Tensor) -> Split:
        """The examples at increasing `indices`, stored in memory."""
        if self.rows:
            part = self.objective.take(self.source, indices)
            return Split(
                self.name, part, self.objective, self.batch_size, rows=True, stored=True, total=self.total
            )
        parts, start = [], 0
        for batch in self.source:
            stop = start + self.objective.size(batch)
            local = indices[(indices >= start) & (indices < stop)] - start
            if local.numel():
                parts.append(self.objective.take(batch, local))
            start = stop
        return Split(
            self.name, parts, self.objective, self.batch_size, rows=False, stored=True, total=self.total
        )

    @property
    def note(self) -> str:
        """What a reader must know of the split's size, or an empty string."""
        return (
            ""
            if self.size == self.total
            else f"{self.size:,} of {self.total:,} {self.name} examples, drawn with the seed"
        )


def _empty(name: str) -> SpecimenError:
    return SpecimenError(
        f"{name} data must hold at least one example", "none", "Check the loader and its sampler."
    )
