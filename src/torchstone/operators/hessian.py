"""The Hessian of the empirical risk in the trainable parameters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.batches import Batch
from torchstone.operators.column_gradients import ColumnGradients
from torchstone.operators.curvature_map import GRAPH_BYTES, CurvatureMap
from torchstone.operators.finite_differences import central_difference
from torchstone.operators.kept_graphs import KeptGraphs
from torchstone.operators.parameter_space import ParameterSpace
from torchstone.specimen import Specimen


class Hessian(CurvatureMap):
    r"""H = d^2/dtheta^2 (1/N) sum_n l(f(x_n; theta), y_n), by differentiating the gradient again.

    Products run in the network's type and are summed over batches in float64. Fused attention and recurrent kernels,
    which cannot be differentiated twice, are replaced inside a product and switched back. Where some backward formula
    still has no derivative, products are central differences of gradients; `how` says so. A custom autograd function
    makes the first product be compared with differences, because such a function may drop terms without a word.

    At kinks (ReLU at 0) this is the Hessian that automatic differentiation defines: that of the linear piece chosen.

    Cost of a product: 2 gradients where the gradient's graphs are kept, 3 where not; several columns at once cost less each
    on a GPU, and on a CPU for networks so small that calls outweigh numbers. Memory: the graphs of
    all batches where they fit `memory_bytes`, of one batch where not. Bias: none by double backward, O(eps^(2/3)) by
    differences.

    Args:
        specimen: What is examined.
        split: Part of the data.
        names: Only these parameters: the corresponding block of H. None for all trainable ones.
        memory_bytes: Budget for kept graphs.

    Raises:
        SpecimenError: No trainable parameter, or a complex one.

    Source: Pearlmutter 1994, Neural Computation 6(1).
    """

    def __init__(
        self,
        specimen: Specimen,
        split: str = "train",
        names: Iterable[str] | None = None,
        *,
        memory_bytes: int = GRAPH_BYTES,
    ) -> None:
        super().__init__(specimen, split, names)
        self._graphs = KeptGraphs(specimen, split, self._gradient_graph, memory_bytes, self.space.bytes)
        self._columns = ColumnGradients(specimen, memory_bytes)

    def _gradient_graph(self, batch: Batch) -> tuple[Tensor, ...]:
        """Gradient of the batch's summed loss, differentiable."""
        total = self.specimen.losses(self._graphs.forward(batch), batch).sum()
        if not total.requires_grad:
            return tuple(torch.zeros_like(parameter) for parameter in self.space.parameters)
        return self.specimen.grad(total, self.space.parameters, batch, create_graph=True)

    def _by_double_backward(self, X: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        return self._principal_by_double_backward(X, [self.space])

    def _principal_by_double_backward(
        self, X: Float[Tensor, "n k"], spaces: Sequence[ParameterSpace]
    ) -> Float[Tensor, "n k"]:
        directions = X.split([space.size for space in spaces])

        def of_batch(gradient: tuple[Tensor, ...], batch: Batch) -> Tensor:
            parts = [
                self._products(gradient, batch, part, space)
                for space, part in zip(spaces, directions, strict=True)
            ]
            return torch.cat(parts) if len(parts) > 1 else parts[0]

        return self._graphs.mean(of_batch)

    def _products(
        self, gradient: tuple[Tensor, ...], batch: Batch, X: Float[Tensor, "n k"], space: ParameterSpace
    ) -> Float[Tensor, "n k"]:
        """Products with the block of `space`."""
        along = dict(zip(space.names, space.unflatten_columns(X), strict=True))
        places = [i for i, name in enumerate(self.space.names) if name in along]
        curved = [i for i in places if gradient[i].requires_grad]
        if not curved:  # every loss is affine in the parameters
            return torch.zeros_like(X)
        found = self._columns(
            [gradient[i] for i in curved],
            space.parameters,
            batch,
            [along[self.space.names[i]] for i in curved],
            self._graphs.weight,
        )
        return space.flatten_columns(found)

    def _by_differences(self, X: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        return torch.stack([central_difference(self._gradient, self.space, x) for x in X.T], dim=1)

    def _gradient(self) -> Float[Tensor, " n"]:
        def of_batch(batch: Batch) -> Tensor:
            with torch.enable_grad():
                total = self.specimen.losses(self.specimen.forward(batch), batch).sum()
                return self.space.flatten(self.specimen.grad(total, self.space.parameters, batch))

        return self.specimen.mean_over(of_batch, self.split)

    def _forget(self) -> None:
        self._graphs.drop()
