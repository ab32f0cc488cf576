"""Gradients of a batch's examples in all parameters, as factors, and their inner products."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.batches import Batch
from torchstone.errors import SpecimenError
from torchstone.operators.cotangents import Cotangents
from torchstone.operators.example_gradients import (
    BatchGradients,
    FormedRows,
    OuterRows,
    Rows,
    gram_of,
    joined,
    rows_of,
)
from torchstone.operators.example_gradients.gram import pairing_is_cheaper
from torchstone.operators.parameter_space import ParameterSpace
from torchstone.operators.pieces import Pieces
from torchstone.operators.tangent_kernel.jacobian import formed_rows
from torchstone.specimen import Specimen


@dataclass(frozen=True)
class ExampleRows:
    """C gradients of each of N examples.

    Attributes:
        examples: N.
        columns: C.
        signs: Of each, (N, C).
        rows: By parameter; those on which nothing depends are missing.
        formed: Parameters whose gradients were formed by `torch.func`, or one by one.
    """

    examples: int
    columns: int
    signs: Float[Tensor, "n c"]
    rows: dict[str, Rows]
    formed: frozenset[str]

    @property
    def bytes(self) -> int:
        """Memory of the factors."""
        return sum(rows.bytes for rows in self.rows.values())

    def gram(self, other: ExampleRows, memory_bytes: int) -> Float[Tensor, "nc md"]:
        """Inner products of all pairs, in float64, on the CPU; the gradients of an example follow each other."""
        shape = (self.examples * self.columns, other.examples * other.columns)
        total = torch.zeros(shape, dtype=torch.float64)
        if 0 in shape:
            return total
        for name in self.rows.keys() & other.rows.keys():
            total += gram_of(self.rows[name], other.rows[name], memory_bytes).reshape(shape).cpu()
        return total


class RowMaker:
    """Makes the rows of one batch after another; call it inside `measuring()` with gradients enabled.

    Args:
        specimen: The network.
        space: The parameters.
        cotangents: Which gradients.
        memory_bytes: For the rows of one piece of a batch.
    """

    def __init__(
        self, specimen: Specimen, space: ParameterSpace, cotangents: Cotangents, memory_bytes: int
    ) -> None:
        self.specimen, self.space, self.cotangents = specimen, space, cotangents
        self.memory_bytes = memory_bytes
        self._pieces = Pieces(specimen, lambda few: self._rows(few, 0).bytes, memory_bytes)

    def of(self, batch: Batch, first: int) -> list[ExampleRows]:
        """The rows of a batch, in as many pieces as the memory asks for.

        Args:
            batch: The examples.
            first: Number of the first of them in its split.

        Raises:
            SpecimenError: Examples influence each other.
        """
        return [self._rows(piece, first + start) for piece, start in self._pieces.of(batch)]

    def combined(self, batch: Batch, first: int, weights: Float[Tensor, "r k"]) -> Float[Tensor, "p k"]:
        """Weighted sums of a batch's rows, in float64. Cost: a forward pass, and a backward pass a column."""
        total = torch.zeros(self.space.size, weights.shape[1], dtype=torch.float64, device=self.space.device)
        for piece, start in self._pieces.of(batch):
            outputs = self.specimen.forward(piece)
            cotangents, _ = self.cotangents.of(self.specimen, outputs, piece, first + start)
            count = len(cotangents) * outputs.shape[0]
            shares, weights = weights[:count], weights[count:]
            if not outputs.requires_grad or not count:
                continue
            shares = shares.reshape(outputs.shape[0], len(cotangents), -1).to(cotangents)
            for column, one in enumerate(torch.einsum("ncw,cn...->wn...", shares, cotangents)):
                pulled = self.specimen.grad(
                    outputs, self.space.parameters, piece, grad_outputs=one, retain_graph=True
                )
                total[:, column] += self.space.flatten(pulled)
        return total

    def _rows(self, batch: Batch, first: int) -> ExampleRows:
        specimen = self.specimen
        outputs = specimen.forward(batch)
        cotangents, signs = self.cotangents.of(specimen, outputs, batch, first)
        columns, count = len(cotangents), outputs.shape[0]
        if not outputs.requires_grad or not columns:
            return ExampleRows(count, columns, signs.T, {}, frozenset())
        parameters = dict(zip(self.space.names, self.space.parameters, strict=True))
        gradients = BatchGradients.of(specimen, outputs, parameters)
        parts: dict[str, list[Rows]] = {name: [] for name in gradients.ruled}
        for cotangent in cotangents if parts else ():
            signals = gradients.signals(cotangent)
            for name, one in gradients.ruled.items():
                parts[name].append(_compact(rows_of(one, signals), columns))
        rows = {name: joined(part) for name, part in parts.items()}
        if gradients.loose:
            rows |= formed_gradients(specimen, batch, outputs, gradients.loose, cotangents, self.memory_bytes)
        return ExampleRows(count, columns, signs.T, rows, frozenset(gradients.loose))


def formed_gradients(
    specimen: Specimen,
    batch: Batch,
    outputs: Tensor,
    names: list[str],
    cotangents: Float[Tensor, "c n ..."],
    memory_bytes: int,
) -> dict[str, FormedRows]:
    """Gradients of single examples in parameters without a rule, formed for these parameters alone.

    Raises:
        SpecimenError: Examples influence each other.
    """
    try:
        found = formed_rows(specimen, batch, outputs, names, cotangents, memory_bytes)
    except SpecimenError as error:
        raise SpecimenError(
            "Gradients of single examples need examples that do not influence each other",
            "gradients one by one that do not add up to the batch's",
            "Put batch normalisation into evaluation mode (mode='eval').",
        ) from error
    return {name: FormedRows(gradients.detach()) for name, gradients in found.items()}


def _compact(rows: Rows, columns: int) -> Rows:
    """Formed where it would be multiplied with its like as formed gradients, and takes no more memory so."""
    if isinstance(rows, OuterRows) and not pairing_is_cheaper(rows, rows, columns):
        examples, here = rows.counts
        if examples * here * rows.numel * rows.signals.element_size() <= 2 * rows.bytes:
            return FormedRows(rows.formed())
    return rows
