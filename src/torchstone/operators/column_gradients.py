"""Derivatives along several columns at once, where that is faster and every operation allows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from torchstone.batches import Batch
from torchstone.operators.double_backward import lacks_second_derivative
from torchstone.operators.kept_graphs import GraphWeight
from torchstone.specimen import Specimen

SMALL_SAVES = 2**13
"""On a CPU, graphs whose nodes save fewer bytes than this on average spend their time on calls, not on numbers,"""
SMALL_PARAMETERS = 2**18
"""where the parameters are few bytes as well."""


class ColumnGradients:
    """`torch.autograd.grad` for k cotangents: in chunks by `torch.vmap`, or one after another.

    By vmap a chunk costs one set of calls instead of one a column. On a GPU this wins always; on a CPU only where the
    numbers are few (recurrent and tiny networks: 2 to 3 times), and loses up to 40% where they are many, as
    convolutions and products of batches lose their fast layouts. So the choice follows from the device and from the
    graph's weight, never from a clock, and the same products have the same bits on every run. The columns of a chunk
    are as many as fit the memory budget. An operation that vmap refuses sends everything to the loop, for good.

    Args:
        specimen: Counts the passes.
        memory_bytes: Budget for a chunk.

    Attributes:
        refused: What vmap said, or "".
    """

    def __init__(self, specimen: Specimen, memory_bytes: int) -> None:
        self.specimen, self.memory_bytes = specimen, memory_bytes
        self.refused = ""

    def __call__(
        self,
        values: Sequence[Tensor],
        inputs: Sequence[Any],
        batch: Batch,
        cotangents: Sequence[Tensor],
        weight: GraphWeight | None,
    ) -> tuple[Tensor, ...]:
        """sum_i c_i^T dv_i/dx for every column of cotangents; the graph is retained.

        Args:
            values: Tensors v_i with a graph.
            inputs: Tensors x, or gradient edges of tensors.
            batch: What they were computed of.
            cotangents: c_i with a leading dimension k, (k, *v_i.shape).
            weight: Of the graph; None where it is not known, for one column at a time.

        Returns:
            One tensor for each input, (k, *x.shape).
        """
        count = cotangents[0].shape[0]
        chunk = self.chunk(weight)
        if count > 1 and chunk > 1:
            try:
                parts = [
                    self._at_once(values, inputs, batch, [c[start : start + chunk] for c in cotangents])
                    for start in range(0, count, chunk)
                ]
                return tuple(map(torch.cat, zip(*parts, strict=True))) if len(parts) > 1 else parts[0]
            except RuntimeError as error:
                if lacks_second_derivative(error):
                    raise
                self.refused = str(error).splitlines()[0]
        columns = [self._single(values, inputs, batch, [c[k] for c in cotangents]) for k in range(count)]
        if count == 1:
            return tuple(part[None] for part in columns[0])
        return tuple(map(torch.stack, zip(*columns, strict=True)))

    def chunk(self, weight: GraphWeight | None) -> int:
        """Columns at a time: 1 where the loop is faster, or nothing else is possible."""
        if weight is None or self.refused:
            return 1
        large = weight.bytes >= SMALL_SAVES * max(1, weight.saves) or weight.parameters >= SMALL_PARAMETERS
        if large and self.specimen.device.type == "cpu":
            return 1
        return max(1, self.memory_bytes // max(1, weight.bytes + weight.parameters))

    def _at_once(
        self, values: Sequence[Tensor], inputs: Sequence[Any], batch: Batch, chunk: list[Tensor]
    ) -> tuple[Tensor, ...]:
        found = self.specimen.grad(
            values, inputs, batch, grad_outputs=chunk, retain_graph=True, is_grads_batched=True
        )
        self.specimen.passes.backward += (len(chunk[0]) - 1) * self.specimen.objective.size(batch)
        # An input that nothing depends on gives zeros without the leading dimension.
        return tuple(
            one if one.ndim > x.ndim else one.expand(len(chunk[0]), *x.shape)
            for one, x in zip(found, inputs, strict=True)
        )

    def _single(
        self, values: Sequence[Tensor], inputs: Sequence[Any], batch: Batch, column: list[Tensor]
    ) -> tuple[Tensor, ...]:
        return self.specimen.grad(values, inputs, batch, grad_outputs=column, retain_graph=True)
