"""The generalised Gauss-Newton matrix of the empirical risk."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.batches import Batch
from torchstone.operators.curvature_map import GRAPH_BYTES, CurvatureMap
from torchstone.operators.finite_differences import central_difference, difference_step
from torchstone.operators.kept_graphs import KeptGraphs
from torchstone.specimen import Specimen


@dataclass
class _Linearised:
    """One batch: outputs f, the pull-back J^T u as a function of u, and the loss gradient as a function of outputs."""

    outputs: Tensor
    cotangent: Tensor
    pulled: tuple[Tensor, ...]
    leaf: Tensor
    loss_gradient: Tensor


class GaussNewton(CurvatureMap):
    r"""G = (1/N) sum_n J_n^T (d^2 l_n / df^2) J_n, the Hessian with the network replaced by its linearisation.

    J_n is the Jacobian of the outputs f in the parameters. Positive semi-definite for losses that are convex in the
    outputs. For softmax cross-entropy it is the Fisher information matrix. Works for any objective: the loss Hessian
    in the outputs comes by automatic differentiation, also where the losses of a batch depend on each other.

    Cost of a product: about 2 gradients where graphs are kept, 3 where not; memory as for `Hessian`. Bias: none; where
    the network cannot be differentiated twice, J v and the loss Hessian's products are central differences and `how`
    says so.

    Args:
        specimen: What is examined.
        split: Part of the data.
        names: Only these parameters: the corresponding block of G. None for all trainable ones.
        memory_bytes: Budget for kept graphs.

    Raises:
        SpecimenError: No trainable parameter, or a complex one.

    Source: Schraudolph 2002, Neural Computation 14(7); Martens 2020, JMLR 21(146), section 8.
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
        self._graphs = KeptGraphs(specimen, split, self.space, self._linearise, memory_bytes)

    def _linearise(self, batch: Batch) -> _Linearised:
        outputs = self.specimen.forward(batch)
        cotangent = torch.zeros_like(outputs, requires_grad=True)
        if outputs.requires_grad:
            options: dict[str, Any] = {"grad_outputs": cotangent, "create_graph": True, "retain_graph": True}
            pulled = self.specimen.grad(outputs, self.space.parameters, batch, **options)
        else:
            pulled = tuple(torch.zeros_like(parameter) for parameter in self.space.parameters)
        leaf = outputs.detach().requires_grad_(True)
        return _Linearised(outputs, cotangent, pulled, leaf, self._loss_gradient(leaf, batch, True))

    def _loss_gradient(self, leaf: Tensor, batch: Batch, differentiable: bool) -> Tensor:
        """Gradient of the batch's summed loss in the outputs."""
        losses = self.specimen.losses(leaf, batch)
        return torch.autograd.grad(losses.sum(), leaf, create_graph=differentiable)[0]

    def _by_double_backward(self, X: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        return self._graphs.mean(lambda graph, batch: self._products(graph, batch, X))

    def _products(self, graph: _Linearised, batch: Batch, X: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        used = [i for i, part in enumerate(graph.pulled) if part.requires_grad]
        if not used or not graph.loss_gradient.requires_grad:
            return torch.zeros_like(X, dtype=torch.float64)
        parts: Any = [graph.pulled[i] for i in used]
        columns = []
        for x in X.T:
            direction = self.space.unflatten(x)
            along = [direction[i] for i in used]
            # J x is the derivative of u -> x^T (J^T u), which is linear in u.
            (pushed,) = self.specimen.grad(
                parts, (graph.cotangent,), batch, grad_outputs=along, retain_graph=True
            )
            (weighted,) = torch.autograd.grad(
                graph.loss_gradient, graph.leaf, pushed, retain_graph=True, materialize_grads=True
            )
            columns.append(self._pull(graph.outputs, weighted, batch))
        return torch.stack(columns, dim=1)

    def _pull(self, outputs: Tensor, cotangent: Tensor, batch: Batch) -> Float[Tensor, " n"]:
        """J^T u as a vector."""
        pulled = self.specimen.grad(
            outputs, self.space.parameters, batch, grad_outputs=cotangent, retain_graph=True
        )
        return self.space.flatten(pulled)

    def _by_differences(self, X: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        def of_batch(batch: Batch) -> Tensor:
            with torch.enable_grad():
                outputs = self.specimen.forward(batch)
            if not outputs.requires_grad:
                return torch.zeros_like(X, dtype=torch.float64)
            return torch.stack([self._difference(outputs, batch, x) for x in X.T], dim=1)

        return self.specimen.mean_over(of_batch, self.split)

    def _difference(self, outputs: Tensor, batch: Batch, x: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """J^T (d^2 l / df^2) J x of one batch, the two inner products by central differences."""

        def forward() -> Tensor:
            with torch.no_grad():
                return self.specimen.forward(batch)

        pushed = central_difference(forward, self.space, x)
        step = difference_step(outputs.detach(), pushed)
        if step == 0:
            return torch.zeros(self.space.size, dtype=torch.float64, device=self.device)
        ends = []
        for sign in (1.0, -1.0):
            moved = (outputs.detach() + sign * step * pushed).to(outputs.dtype).requires_grad_(True)
            with torch.enable_grad():
                ends.append(self._loss_gradient(moved, batch, False).double())
        return self._pull(outputs, ((ends[0] - ends[1]) / (2 * step)).to(outputs.dtype), batch)

    def _forget(self) -> None:
        self._graphs.drop()
