"""The Jacobian of a network's outputs in its parameters."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.batches import Batch
from torchstone.linalg import FunctionMap, LinearMap
from torchstone.operators.column_gradients import ColumnGradients
from torchstone.operators.differentiated_map import GRAPH_BYTES, DifferentiatedMap
from torchstone.operators.finite_differences import central_difference
from torchstone.operators.kept_graphs import KeptGraphs
from torchstone.operators.parameter_space import ParameterSpace
from torchstone.specimen import Specimen


@dataclass
class _Linearised:
    """One batch: outputs f, and the pull-back J^T u as a function of u where J v is asked for."""

    outputs: Tensor
    cotangent: Tensor | None = None
    pulled: tuple[Tensor, ...] = ()


class ParameterJacobian(DifferentiatedMap):
    r"""J = d f / d theta: a row for every number that the network puts out, a column for every parameter.

    Rows are the outputs of all examples in the data's order, each example's flattened; batches may have outputs of
    different shapes. J v comes from the pull-back u -> J^T u, whose derivative along v it is, and J^T u from one
    backward pass. Where the network cannot be differentiated twice, J v is a central difference and `how` says so; J^T u
    is exact there as well.

    Cost: J v about 1.3 gradients where graphs are kept, 2.3 where not; J^T u 0.5 to 1 and 1.2; one forward pass at first.
    Memory: the graphs of all batches where they fit `memory_bytes`, of one batch where not. Bias: none by differentiating twice,
    O(eps^(2/3)) by differences.

    Args:
        specimen: What is examined.
        split: Part of the data.
        names: Only the columns of these parameters; None for all trainable ones.
        memory_bytes: Budget for kept graphs.

    Raises:
        SpecimenError: No trainable parameter, or a complex one.

    Example:
        The tangent kernel of all outputs is `J @ J.T`, the Gauss-Newton matrix of squared error `2 / N * (J.T @ J)`.

    >>> from torchstone import Specimen
    >>> from torchstone.objectives import Regression
    >>> line = torch.nn.Linear(1, 1)
    >>> J = ParameterJacobian(Specimen(line, Regression(), (torch.tensor([[2.0], [3.0]]), torch.zeros(2, 1))))
    >>> J.to_dense()
    tensor([[2., 1.],
            [3., 1.]])

    Source: Pearlmutter 1994, Neural Computation 6(1), for J v by two reverse passes.
    """

    def __init__(
        self,
        specimen: Specimen,
        split: str = "train",
        names: Iterable[str] | None = None,
        *,
        memory_bytes: int = GRAPH_BYTES,
    ) -> None:
        self.space = ParameterSpace.of(specimen, names)
        with torch.no_grad():
            heights = specimen.map_over(lambda batch: torch.tensor([specimen.forward(batch).numel()]), split)
        self._starts = [0, *itertools.accumulate(heights.tolist())]
        shape = (self._starts[-1], self.space.size)
        super().__init__(specimen, split, shape, self.space.dtype, self.space.device)
        self._graphs = KeptGraphs(
            specimen, split, self._linearise, memory_bytes, self.space.bytes, linear=True
        )
        self._columns = ColumnGradients(specimen, memory_bytes)
        self._transposed = False

    def _linearise(self, batch: Batch) -> _Linearised:
        outputs = self._graphs.forward(batch)
        light = self._transposed and self._graphs.fits is False  # J^T u, and the graph is not kept for J v
        if light or not outputs.requires_grad:
            return _Linearised(outputs)
        cotangent = torch.zeros_like(outputs, requires_grad=True)
        pulled = self.specimen.grad(
            outputs,
            self.space.parameters,
            batch,
            grad_outputs=cotangent,
            create_graph=True,
            retain_graph=True,
        )
        return _Linearised(outputs, cotangent, pulled)

    def _by_double_backward(self, X: Float[Tensor, "n k"]) -> Float[Tensor, "m k"]:
        along = self.space.unflatten_columns(X)

        def pushed(graph: _Linearised, batch: Batch) -> Tensor:
            used = [i for i, part in enumerate(graph.pulled) if part.requires_grad]
            if graph.cotangent is None or not used:
                return torch.zeros(graph.outputs.numel(), X.shape[1], dtype=torch.float64)
            parts, directions = [graph.pulled[i] for i in used], [along[i] for i in used]
            weight = self._graphs.weight
            (found,) = self._columns(parts, (graph.cotangent,), batch, directions, weight)
            return found.flatten(1).T.double()

        return self._graphs.rows(pushed).to(self.device)

    def _by_differences(self, X: Float[Tensor, "n k"]) -> Float[Tensor, "m k"]:
        def of_batch(batch: Batch) -> Tensor:
            forward = lambda: self.specimen.forward(batch).flatten()
            return torch.stack([central_difference(forward, self.space, x) for x in X.T], dim=1)

        with torch.no_grad():
            return self.specimen.map_over(of_batch, self.split).to(self.device)

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
            number = self._graphs.number
            rows = U[self._starts[number] : self._starts[number + 1]]
            if not graph.outputs.requires_grad:
                return torch.zeros(self.shape[1], U.shape[1], dtype=self.dtype, device=self.device)
            cotangents = rows.T.reshape(-1, *graph.outputs.shape).to(graph.outputs.dtype)
            weight = self._graphs.weight
            found = self._columns((graph.outputs,), self.space.parameters, batch, (cotangents,), weight)
            return self.space.flatten_columns(found)

        self._transposed = True
        try:
            return self._graphs.sum(pulled).to(self.dtype)
        finally:
            self._transposed = False

    def _forget(self) -> None:
        self._graphs.drop()

    def _differentiated(self, batch: Batch) -> Tensor:
        return self.specimen.forward(batch)
