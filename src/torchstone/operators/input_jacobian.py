"""The Jacobian of a network's outputs in its inputs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.batches import Batch
from torchstone.errors import SettingError
from torchstone.operators.batch_jacobian import BatchJacobian, Rows
from torchstone.operators.differentiated_map import GRAPH_BYTES
from torchstone.operators.finite_differences import difference_step
from torchstone.specimen import Specimen


class InputJacobian(BatchJacobian):
    r"""J = d f / d x: a row for every number that the network puts out, a column for every number it takes in.

    Block-diagonal over examples (over batches, where the network mixes its examples), each block outputs x inputs. With
    a single index as `rows` it is that example's own Jacobian, whose largest singular value is the network's local
    Lipschitz constant there. The input is the one that the objective names (`Objective.inputs`).

    Cost: J v about 0.9 gradients where graphs are kept, 1.6 where not; J^T u 0.5 and 0.9; one forward pass at first.
    Memory: as for `ParameterJacobian`. Bias: none by differentiating twice, O(eps^(2/3)) by differences.

    Args:
        specimen: What is examined.
        split: Part of the data.
        rows: Only these examples: increasing indices, or a single one; None for all.
        memory_bytes: Budget for kept graphs.

    Raises:
        SettingError: The batches hold no continuous input, or rows are not increasing indices of examples.

    >>> from torchstone import Specimen
    >>> from torchstone.objectives import Regression
    >>> plane = torch.nn.Linear(2, 1)
    >>> with torch.no_grad():
    ...     _ = plane.weight.copy_(torch.tensor([[3.0, 4.0]]))
    >>> InputJacobian(Specimen(plane, Regression(), (torch.zeros(5, 2), torch.zeros(5, 1))), rows=0).to_dense()
    tensor([[3., 4.]])
    """

    def __init__(
        self,
        specimen: Specimen,
        split: str = "train",
        rows: Rows = None,
        *,
        memory_bytes: int = GRAPH_BYTES,
    ) -> None:
        super().__init__(specimen, split, rows, memory_bytes)

    def _input(self, batch: Batch) -> Tensor:
        found = self.specimen.objective.inputs(batch)
        if found is None or not found.is_floating_point():
            raise SettingError(
                "The Jacobian in the inputs needs inputs that are continuous",
                "none in the batch" if found is None else f"inputs of type {found.dtype}",
                "Use LayerJacobian from the module after the embedding, or override Objective.inputs().",
            )
        return found.detach()

    def _link(self, batch: Batch, forward: Callable[[Batch], Tensor]) -> tuple[Tensor, Tensor]:
        source = self._input(batch).clone().requires_grad_(True)
        copied = self.specimen.objective.with_inputs(batch, source.clone())  # which the network may overwrite
        return forward(copied), source

    def _outputs(self, batch: Batch, inputs: Tensor) -> Tensor:
        return self.specimen.forward(self.specimen.objective.with_inputs(batch, inputs))

    def _by_differences(self, X: Float[Tensor, "n k"]) -> Float[Tensor, "m k"]:
        position = -1

        def of_batch(batch: Batch) -> Tensor:
            nonlocal position
            position += 1
            processes = self.specimen.processes
            number = processes.rank + position * processes.count
            x, rows = self._input(batch), X[self._widths[number] : self._widths[number + 1]]
            return torch.stack([self._difference(batch, x, v.reshape(x.shape)) for v in rows.T], dim=1)

        with torch.no_grad():
            return self.specimen.map_over(of_batch, self.split).to(self.device)

    def _difference(self, batch: Batch, x: Tensor, v: Tensor) -> Float[Tensor, " m"]:
        step = difference_step(x, v)
        if step == 0:
            return torch.zeros_like(self._outputs(batch, x), dtype=torch.float64).flatten()
        ends = [self._outputs(batch, (x + s * step * v).to(x.dtype)).double() for s in (1.0, -1.0)]
        return ((ends[0] - ends[1]) / (2 * step)).flatten()
