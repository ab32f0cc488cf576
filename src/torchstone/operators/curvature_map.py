"""What the Hessian and the Gauss-Newton matrix have in common: parameters, kept graphs, and distrust."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.linalg import LinearMap
from torchstone.operators.double_backward import lacks_second_derivative, twice_differentiable
from torchstone.operators.graph import foreign_functions, nodes_of
from torchstone.operators.parameter_space import ParameterSpace
from torchstone.specimen import Specimen

GRAPH_BYTES = 2**29
DOUBLE_BACKWARD = "double backward"
_AGREEMENT = 0.02  # differences in float32 and kinks stay below; a missing term does not


class CurvatureMap(LinearMap):
    """A symmetric matrix of second derivatives in the trainable parameters.

    Products come by differentiating twice. Where PyTorch says that a formula cannot be, or where custom functions are
    found to leave terms out, they come by central differences instead, and `how` says so.

    Args:
        specimen: What is examined.
        split: Part of the data.
        names: Only these parameters; None for all trainable ones.

    Raises:
        SpecimenError: No trainable parameter, or a complex one.
    """

    def __init__(self, specimen: Specimen, split: str, names: Iterable[str] | None) -> None:
        self.specimen, self.split = specimen, split
        self.space = ParameterSpace.of(specimen, names)
        size = self.space.size
        super().__init__((size, size), self.space.dtype, self.space.device, symmetric=True)
        self.how = DOUBLE_BACKWARD
        self._distrusted: list[str] | None = None

    @abstractmethod
    def _by_double_backward(self, X: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        """Products in float64."""

    @abstractmethod
    def _by_differences(self, X: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        """Products in float64 without differentiating twice."""

    @abstractmethod
    def _forget(self) -> None:
        """Drop kept graphs."""

    def _matvec(self, x: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        return self._matmat(x[:, None])[:, 0]

    def _matmat(self, X: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        if self.how == DOUBLE_BACKWARD:
            try:
                self._check()
                if self.how == DOUBLE_BACKWARD:
                    return self._by_double_backward(X).to(self.dtype)
            except RuntimeError as error:
                if not lacks_second_derivative(error):
                    raise
                self._switch(str(error).splitlines()[0])
        return self._by_differences(X).to(self.dtype)

    def _check(self) -> None:
        """Once: where there are custom functions, compare a product with central differences."""
        if self._distrusted is not None:
            return
        self._distrusted = self._foreign()
        if not self._distrusted:
            return
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(self.shape[0], 1, generator=generator, dtype=torch.float64)
        x = x.to(device=self.device, dtype=self.dtype)
        twice, differences = self._by_double_backward(x), self._by_differences(x)
        scale = torch.maximum(twice.norm(), differences.norm())
        if bool((twice - differences).norm() > _AGREEMENT * scale):
            names = ", ".join(name.removesuffix("Backward") for name in self._distrusted)
            self._switch(f"the second derivative of {names} is incomplete")

    def _switch(self, reason: str) -> None:
        self._forget()
        self.how = f"central differences ({reason})"

    def _foreign(self) -> list[str]:
        """Custom functions in the graph of the first batch's losses."""
        specimen = self.specimen
        with (
            specimen.measuring(),
            twice_differentiable(specimen.model, specimen.device),
            torch.enable_grad(),
        ):
            batch = next(specimen.batches(self.split))
            losses = specimen.losses(specimen.forward(batch), batch)
        return foreign_functions(nodes_of(losses)) if losses.requires_grad else []
