"""Matrices of the form (1/N) sum_n J_n^T W_n J_n: what the Gauss-Newton and Fisher matrices have in common."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.batches import Batch
from torchstone.operators.column_gradients import ColumnGradients
from torchstone.operators.cotangents import Columns
from torchstone.operators.curvature_map import GRAPH_BYTES, CurvatureMap
from torchstone.operators.finite_differences import central_difference
from torchstone.operators.kept_graphs import KeptGraphs
from torchstone.operators.parameter_space import ParameterSpace
from torchstone.specimen import Specimen

Weigher = Callable[[Tensor], Tensor]
"""v -> W v for all examples of a batch, both of the outputs' shape."""


@dataclass
class _Linearised:
    """One batch: outputs f, the pull-back J^T u as a function of u, and W; None where W is zero."""

    outputs: Tensor
    cotangent: Tensor
    pulled: tuple[Tensor, ...]
    weigh: Weigher | None


class OutputCurvature(CurvatureMap):
    """(1/N) sum_n J_n^T W_n J_n with J_n the Jacobian of example n's outputs in the parameters.

    Cost of a product: about 2 gradients where graphs are kept, 3 where not. Where the network cannot be differentiated
    twice, J v is a central difference and `how` says so.

    Args:
        specimen: What is examined.
        split: Part of the data.
        names: Only these parameters; None for all trainable ones.
        memory_bytes: Budget for kept graphs.
    """

    def __init__(
        self,
        specimen: Specimen,
        split: str,
        names: Iterable[str] | None,
        memory_bytes: int = GRAPH_BYTES,
    ) -> None:
        super().__init__(specimen, split, names)
        self._graphs = KeptGraphs(
            specimen, split, self._linearise, memory_bytes, self.space.bytes, linear=True
        )
        self._columns = ColumnGradients(specimen, memory_bytes)

    @abstractmethod
    def _weigher(self, outputs: Tensor, batch: Batch, position: int) -> Weigher | None:
        """W of a batch; None where it is zero.

        Args:
            outputs: Values of the outputs.
            batch: The examples.
            position: Number of the batch among this process's.
        """

    def _weigher_by_differences(self, outputs: Tensor, batch: Batch, position: int) -> Weigher | None:
        """The same without differentiating the loss twice."""
        return self._weigher(outputs, batch, position)

    @cached_property
    def _firsts(self) -> list[int]:
        """Number of the first example of each of this process's batches."""
        specimen = self.specimen
        sizes = [specimen.objective.size(batch) for batch in specimen.split(self.split)]
        starts = [0, *itertools.accumulate(sizes)][:-1]
        return starts[specimen.processes.rank :: specimen.processes.count]

    def _linearise(self, batch: Batch) -> _Linearised:
        outputs = self._graphs.forward(batch)
        cotangent = torch.zeros_like(outputs, requires_grad=True)
        if outputs.requires_grad:
            options: dict[str, Any] = {"grad_outputs": cotangent, "create_graph": True, "retain_graph": True}
            pulled = self.specimen.grad(outputs, self.space.parameters, batch, **options)
        else:
            pulled = tuple(torch.zeros_like(parameter) for parameter in self.space.parameters)
        weigh = self._weigher(outputs.detach(), batch, self._graphs.position)
        return _Linearised(outputs, cotangent, pulled, weigh)

    def _by_double_backward(self, X: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        return self._products_of_blocks(X, [self.space])

    def _products_of_blocks(
        self, X: Float[Tensor, "n k"], spaces: Sequence[ParameterSpace]
    ) -> Float[Tensor, "n k"]:
        directions = X.split([space.size for space in spaces])

        def of_batch(graph: _Linearised, batch: Batch) -> Tensor:
            parts = [
                self._products(graph, batch, part, space)
                for space, part in zip(spaces, directions, strict=True)
            ]
            return torch.cat(parts) if len(parts) > 1 else parts[0]

        return self._graphs.mean(of_batch)

    def _principal_by_double_backward(
        self, X: Float[Tensor, "n k"], spaces: Sequence[ParameterSpace]
    ) -> Float[Tensor, "n k"]:
        return self._products_of_blocks(X, spaces)

    def _products(
        self, graph: _Linearised, batch: Batch, X: Float[Tensor, "n k"], space: ParameterSpace
    ) -> Float[Tensor, "n k"]:
        """Products with the block of `space`."""
        along = dict(zip(space.names, space.unflatten_columns(X), strict=True))
        places = [i for i, name in enumerate(self.space.names) if name in along]
        used = [i for i in places if graph.pulled[i].requires_grad]
        if not used or graph.weigh is None:
            return torch.zeros_like(X)
        weight = self._graphs.weight
        # J x is the derivative of u -> x^T (J^T u), which is linear in u.
        (pushed,) = self._columns(
            [graph.pulled[i] for i in used],
            (graph.cotangent,),
            batch,
            [along[self.space.names[i]] for i in used],
            weight,
        )
        weighted = torch.stack([graph.weigh(one) for one in pushed]).to(graph.outputs.dtype)
        found = self._columns((graph.outputs,), space.parameters, batch, (weighted,), weight)
        return space.flatten_columns(found)

    def _pull(self, outputs: Tensor, cotangent: Tensor, batch: Batch) -> Float[Tensor, " n"]:
        """J^T u as a vector."""
        pulled = self.specimen.grad(
            outputs, self.space.parameters, batch, grad_outputs=cotangent.to(outputs.dtype), retain_graph=True
        )
        return self.space.flatten(pulled)

    def _by_differences(self, X: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        positions = itertools.count()

        def of_batch(batch: Batch) -> Tensor:
            position = next(positions)
            with torch.enable_grad():
                outputs = self.specimen.forward(batch)
            weigh = self._weigher_by_differences(outputs.detach(), batch, position)
            if not outputs.requires_grad or weigh is None:
                return torch.zeros_like(X)
            return torch.stack([self._difference(outputs, weigh, batch, x) for x in X.T], dim=1)

        return self.specimen.mean_over(of_batch, self.split)

    def _difference(
        self, outputs: Tensor, weigh: Weigher, batch: Batch, x: Float[Tensor, " n"]
    ) -> Float[Tensor, " n"]:
        def forward() -> Tensor:
            with torch.no_grad():
                return self.specimen.forward(batch)

        return self._pull(outputs, weigh(central_difference(forward, self.space, x)), batch)

    def _forget(self) -> None:
        self._graphs.drop()


def outer_weigher(columns: Columns) -> Weigher:
    """W_n = sum_c sign_nc s_nc s_nc^T, its inner products in float64."""
    cotangents, signs = columns

    def weigh(pushed: Tensor) -> Tensor:
        inner = (cotangents.double() * pushed.double()).reshape(*signs.shape, -1).sum(2) * signs
        spread = inner.reshape(*inner.shape, *(1,) * (pushed.ndim - 1))
        return (cotangents * spread.to(cotangents.dtype)).sum(0)

    return weigh
