"""The tangent kernel of a specimen's examples as a linear map, for too many examples to form it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.batches import Batch
from torchstone.errors import SpecimenError
from torchstone.linalg import LinearMap
from torchstone.operators.curvature_map import DOUBLE_BACKWARD
from torchstone.operators.double_backward import lacks_second_derivative, twice_differentiable
from torchstone.operators.finite_differences import central_difference
from torchstone.operators.parameter_space import ParameterSpace
from torchstone.specimen import Specimen


class NTKMap(LinearMap):
    r"""Theta = J J^T on vectors of N C numbers, the outputs of an example side by side; J^T v first, then J (J^T v).

    Symmetric and positive semi-definite. Works with every routine of `torchstone.linalg`: `top_eigenpairs` for the
    directions that gradient descent learns first, conjugate gradients for kernel regression, traces.

    Cost of a product: about five gradients, forward passes included, of which several columns share two. Memory: a
    batch's graph, and a vector of parameters a column. Bias: none; where the network cannot be differentiated twice,
    J w is a central difference and `how` says so.

    Args:
        specimen: What is examined.
        split: Part of the data.
        names: Only these parameters; None for all trainable ones.

    Raises:
        SpecimenError: No trainable parameter, a complex one, or outputs that differ in number.

    Source: Jacot, Gabriel & Hongler 2018, section 4; Schraudolph 2002 (products with J).
    """

    def __init__(self, specimen: Specimen, split: str = "train", names: Iterable[str] | None = None) -> None:
        self.specimen, self.split = specimen, split
        self.space = ParameterSpace.of(specimen, names)
        with specimen.measuring(), torch.no_grad():
            counts = [
                (specimen.objective.size(batch), specimen.forward(batch)[0].numel())
                for batch in specimen.batches(split)
            ]
        if len({each for _, each in counts}) > 1:
            raise SpecimenError(
                "A tangent kernel needs the same number of outputs of every example",
                ", ".join(str(each) for each in sorted({each for _, each in counts})[:3]),
                "Pad or crop all examples to one length.",
            )
        self.outputs = counts[0][1]
        self._starts = torch.tensor([0, *(count for count, _ in counts)]).cumsum(0).tolist()
        size = specimen.size(split) * self.outputs
        super().__init__((size, size), self.space.dtype, self.space.device, symmetric=True)
        self.how = DOUBLE_BACKWARD
        self._trusted = False

    def _matvec(self, x: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        return self._matmat(x[:, None])[:, 0]

    def _matmat(self, X: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        specimen = self.specimen
        examples = X.reshape(-1, self.outputs, X.shape[1])
        with twice_differentiable(specimen.model, specimen.device), torch.enable_grad():
            pulled = specimen.sum_over(self._puller(examples), self.split)
            pushed = specimen.map_over(lambda batch: self._push(batch, pulled.T), self.split)
        return pushed.reshape(-1, X.shape[1]).to(X)

    def _puller(self, examples: Float[Tensor, "n outputs k"]) -> Any:
        """J^T v of one batch after another, (P, k)."""
        processes = self.specimen.processes
        position = processes.rank - processes.count

        def of_batch(batch: Batch) -> Tensor:
            nonlocal position
            position += processes.count
            start, stop = self._starts[position], self._starts[position + 1]
            outputs = self.specimen.forward(batch)
            columns = []
            for v in examples[start:stop].unbind(2):
                along = v.reshape(outputs.shape).to(outputs)
                pulled = self.specimen.grad(
                    outputs, self.space.parameters, batch, grad_outputs=along, retain_graph=True
                )
                columns.append(self.space.flatten(pulled))
            return torch.stack(columns, dim=1)

        return of_batch

    def _push(self, batch: Batch, directions: Float[Tensor, "k P"]) -> Float[Tensor, "n outputs k"]:
        """J w of one batch."""
        if self.how == DOUBLE_BACKWARD:
            try:
                found, agrees = self._by_double_backward(batch, directions)
                if agrees:
                    return found
                self.how = "central differences (some second derivative is incomplete)"
            except RuntimeError as error:
                if not lacks_second_derivative(error):
                    raise
                self.how = f"central differences ({str(error).splitlines()[0]})"

        def forward() -> Tensor:
            with torch.no_grad():
                return self.specimen.forward(batch)

        columns = [central_difference(forward, self.space, w) for w in directions]
        return torch.stack([one.reshape(len(one), -1) for one in columns], dim=2)

    def _by_double_backward(
        self, batch: Batch, directions: Float[Tensor, "k P"]
    ) -> tuple[Float[Tensor, "n outputs k"], bool]:
        """J w as the derivative of u -> w^T (J^T u), which is linear in u; and whether u . (J w) = (J^T u) . w."""
        specimen = self.specimen
        outputs = specimen.forward(batch)
        shape = (len(outputs), self.outputs)
        if not outputs.requires_grad:
            return torch.zeros(*shape, len(directions), dtype=torch.float64), True
        cotangent = torch.zeros_like(outputs, requires_grad=True)
        options: dict[str, Any] = {"grad_outputs": cotangent, "create_graph": True, "retain_graph": True}
        pulled = specimen.grad(outputs, self.space.parameters, batch, **options)
        used = [i for i, part in enumerate(pulled) if part.requires_grad]
        parts = [pulled[i] for i in used]
        columns = []
        for w in directions:
            along = self.space.unflatten(w)
            (pushed,) = specimen.grad(
                parts, (cotangent,), batch, grad_outputs=[along[i] for i in used], retain_graph=True
            )
            columns.append(pushed.double().reshape(shape))
        found = torch.stack(columns, dim=2)
        return found, self._trusted or self._agrees(batch, outputs, found, directions)

    def _agrees(self, batch: Batch, outputs: Tensor, found: Tensor, directions: Float[Tensor, "k P"]) -> bool:
        """Once: custom functions may leave terms out of a second derivative without a word."""
        u = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        u = u.to(outputs)
        pulled = self.specimen.grad(outputs, self.space.parameters, batch, grad_outputs=u, retain_graph=True)
        flat, w = self.space.flatten(pulled), directions.double()
        expected, got = w @ flat, u.double().reshape(-1) @ found.flatten(0, 1)
        slack = torch.finfo(outputs.dtype).eps ** 0.5 * w.norm(dim=1) * flat.norm()
        self._trusted = bool(((expected - got).abs() <= slack).all())
        return self._trusted
