"""All examples' gradients paired with each other, block by block, so that their factors need not all fit the memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.batches import Batch
from torchstone.operators.cotangents import Cotangents
from torchstone.operators.double_backward import twice_differentiable
from torchstone.operators.example_rows import ExampleRows, RowMaker
from torchstone.operators.parameter_space import ParameterSpace
from torchstone.specimen import Specimen


@dataclass
class _Held:
    """The rows of consecutive batches, by the batch's number."""

    pieces: dict[int, list[ExampleRows]] = field(default_factory=dict)
    last: bool = True

    @property
    def bytes(self) -> int:
        return sum(piece.bytes for pieces in self.pieces.values() for piece in pieces)

    @property
    def stop(self) -> int:
        return max(self.pieces) + 1


class PairedRows:
    """Inner products of the gradients of all examples of a split with those of another, or of the same.

    Args:
        specimen: What is examined.
        space: The parameters.
        cotangents: Which gradients an example has.
        memory_bytes: For rows that are kept.

    Attributes:
        signs: Of each row, (R,), after `gram`.
        counts: Number of rows of each batch, after `gram`.
        formed: Parameters without a rule.
    """

    def __init__(
        self,
        specimen: Specimen,
        space: ParameterSpace,
        cotangents: Cotangents,
        memory_bytes: int,
    ) -> None:
        self.specimen, self.memory_bytes = specimen, memory_bytes
        self.maker = RowMaker(specimen, space, cotangents, max(1, memory_bytes // 4))
        self.formed: set[str] = set()
        self.signs = torch.zeros(0, dtype=torch.float64)
        self.counts: list[int] = []

    def gram(self, split: str) -> Float[Tensor, "r r"]:
        """Products of all pairs within a split; pairs of batches are computed once and mirrored."""
        self.signs, self.counts = self.signs[:0], []
        blocks = list(self._blocks(split, split))
        size = len(blocks[-1])
        upper = torch.cat([torch.cat([b, b.new_zeros(size - len(b), b.shape[1])]) for b in blocks], dim=1)
        return torch.triu(upper) + torch.triu(upper, 1).T

    def between(self, split: str, other: str) -> Float[Tensor, "r s"]:
        """Products of all pairs across two splits."""
        return torch.cat(list(self._blocks(split, other)), dim=1)

    def combinations(self, split: str, weights: Float[Tensor, "r k"]) -> Float[Tensor, "p k"]:
        """Sums of the rows of `gram`, weighted by each column, in float64: one backward pass a column."""
        parts = weights.split(self.counts)
        firsts, numbers = first_examples(self.specimen, split), self._numbers()

        def of_batch(batch: Batch) -> Tensor:
            number = next(numbers)
            with torch.enable_grad():
                return self.maker.combined(batch, firsts[number], parts[number])

        with twice_differentiable(self.specimen.model, self.specimen.device):
            return self.specimen.sum_over(of_batch, split)

    def _numbers(self) -> Iterator[int]:
        """Numbers of this process's batches among all."""
        group = self.specimen.processes
        return itertools.count(group.rank, group.count)

    def _blocks(self, split: str, other: str) -> Iterator[Tensor]:
        firsts, others = first_examples(self.specimen, split), first_examples(self.specimen, other)
        start, last = 0, False
        with (
            self.specimen.measuring(),
            twice_differentiable(self.specimen.model, self.specimen.device),
            torch.enable_grad(),
        ):
            while not last:
                held = self._hold(other, start, others)
                yield self._against(held, split, firsts, symmetric=split == other)
                start, last = held.stop, held.last

    def _hold(self, split: str, start: int, firsts: list[int]) -> _Held:
        """Rows of the batches from number `start` on, as many as fit. Every process holds the same."""
        held = _Held()
        for index, batch in enumerate(self.specimen.batches(split)):
            if index < start:
                continue
            if held.pieces and held.bytes >= self.memory_bytes // 2:
                held.last = False
                break
            pieces = self._made(batch, firsts[index])
            held.pieces[index] = pieces
            self.counts.append(sum(piece.examples * piece.columns for piece in pieces))
            self.signs = torch.cat([self.signs, *(piece.signs.reshape(-1).cpu() for piece in pieces)])
        return held

    def _made(self, batch: Batch, first: int) -> list[ExampleRows]:
        pieces = self.maker.of(batch, first)
        for piece in pieces:
            self.formed |= piece.formed
        return pieces

    def _against(self, held: _Held, split: str, firsts: list[int], *, symmetric: bool) -> Tensor:
        """Products of all rows with those held; of one split with itself only up to the last batch held."""
        numbers = self._numbers()
        width = sum(piece.examples * piece.columns for pieces in held.pieces.values() for piece in pieces)

        def of_batch(batch: Batch) -> Tensor:
            index = next(numbers)
            if symmetric and index >= held.stop:
                return torch.zeros(0, width, dtype=torch.float64)
            known = held.pieces.get(index) if symmetric else None
            with torch.enable_grad():
                mine = known or self._made(batch, firsts[index])
            return torch.cat([self._row(held, piece, index if symmetric else 0) for piece in mine])

        return self.specimen.map_over(of_batch, split)

    def _row(self, held: _Held, mine: ExampleRows, lowest: int) -> Tensor:
        """One piece's products; zeros with batches before number `lowest`, which are mirrored later."""
        blocks = []
        for index, pieces in held.pieces.items():
            for piece in pieces:
                shape = (mine.examples * mine.columns, piece.examples * piece.columns)
                skip = index < lowest
                block = (
                    torch.zeros(shape, dtype=torch.float64)
                    if skip
                    else mine.gram(piece, max(1, self.memory_bytes // 4))
                )
                blocks.append(block)
        return torch.cat(blocks, dim=1)


def first_examples(specimen: Specimen, split: str) -> list[int]:
    """Number of the first example of each batch."""
    sizes = [specimen.objective.size(batch) for batch in specimen.split(split)]
    return [0, *itertools.accumulate(sizes)][:-1]
