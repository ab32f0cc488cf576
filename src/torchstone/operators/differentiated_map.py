"""Linear maps that are derivatives, got by differentiating twice where that can be trusted."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.batches import Batch
from torchstone.linalg import LinearMap
from torchstone.operators.double_backward import (
    is_compiled,
    lacks_second_derivative,
    twice_differentiable,
)
from torchstone.operators.graph import foreign_functions, nodes_of
from torchstone.specimen import Specimen

GRAPH_BYTES = 2**29
DOUBLE_BACKWARD = "double backward"
_UNCOMPILED = f"{DOUBLE_BACKWARD} of the network as it was before torch.compile"
_AGREEMENT = 0.02  # differences in float32 and kinks stay below; a missing term does not


class DifferentiatedMap(LinearMap):
    """A matrix of derivatives whose products come by differentiating twice.

    Where PyTorch says that a formula cannot be differentiated twice, or where custom functions are found to leave terms
    out, products come by central differences instead, and `how` says so. A compiled network, which cannot be
    differentiated twice either, is run as it was before; `how` says that too.

    Args:
        specimen: What is examined.
        split: Part of the data.
        shape: Of the matrix.
        dtype: Of the vectors.
        device: Of the vectors.
        symmetric: Whether the matrix is symmetric.
    """

    def __init__(
        self,
        specimen: Specimen,
        split: str,
        shape: tuple[int, int],
        dtype: torch.dtype,
        device: torch.device,
        *,
        symmetric: bool = False,
    ) -> None:
        super().__init__(shape, dtype, device, symmetric=symmetric)
        self.specimen, self.split = specimen, split
        self.how = _UNCOMPILED if is_compiled(specimen.model) else DOUBLE_BACKWARD
        self._distrusted: list[str] | None = None

    @abstractmethod
    def _by_double_backward(self, X: Float[Tensor, "n k"]) -> Float[Tensor, "m k"]:
        """Products in float64."""

    @abstractmethod
    def _by_differences(self, X: Float[Tensor, "n k"]) -> Float[Tensor, "m k"]:
        """Products in float64 without differentiating twice."""

    @abstractmethod
    def _forget(self) -> None:
        """Drop kept graphs."""

    @property
    def twice(self) -> bool:
        """Whether products come by differentiating twice."""
        return self.how.startswith(DOUBLE_BACKWARD)

    @property
    def certain(self) -> bool:
        """Whether products are right to rounding: by differentiating twice, through PyTorch's own formulas only."""
        return self.twice and not self._distrusted

    def _matvec(self, x: Float[Tensor, " n"]) -> Float[Tensor, " m"]:
        return self._matmat(x[:, None])[:, 0]

    def _matmat(self, X: Float[Tensor, "n k"]) -> Float[Tensor, "m k"]:
        return self._trusted(lambda: self._by_double_backward(X), lambda: self._by_differences(X))

    def _trusted(self, twice: Callable[[], Tensor], differences: Callable[[], Tensor]) -> Tensor:
        """What `twice` gives by differentiating twice, or where that fails or is distrusted, what `differences` gives."""
        if self.twice:
            try:
                self._check()
                if self.twice:
                    return twice().to(self.dtype)
            except RuntimeError as error:
                if not lacks_second_derivative(error):
                    raise
                self._switch(str(error).splitlines()[0])
        return differences().to(self.dtype)

    def _check(self) -> None:
        """Once: where there are custom functions, compare a product with central differences."""
        if self._distrusted is not None:
            return
        self._distrusted = self._foreign()
        if not self._distrusted:
            return
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(self.shape[1], 1, generator=generator, dtype=torch.float64)
        x = x.to(device=self.device, dtype=self.dtype)
        twice, differences = self._by_double_backward(x), self._by_differences(x)
        scale = torch.maximum(twice.norm(), differences.norm())
        names = ", ".join(name.removesuffix("Backward") for name in self._distrusted)
        if bool((twice - differences).norm() > _AGREEMENT * scale):
            self._switch(f"the second derivative of {names} is incomplete")
        else:
            self.how += f", through {names} too, which agreed with differences to {_AGREEMENT:.0%}"

    def _switch(self, reason: str) -> None:
        self._forget()
        self.how = f"central differences ({reason})"

    def _foreign(self) -> list[str]:
        """Custom functions in the graph of what is differentiated, on the first batch."""
        specimen = self.specimen
        with (
            specimen.measuring(),
            twice_differentiable(specimen.model, specimen.device),
            torch.enable_grad(),
        ):
            values = self._differentiated(next(specimen.batches(self.split)))
        return foreign_functions(nodes_of(values)) if values.requires_grad else []

    def _differentiated(self, batch: Batch) -> Tensor:
        """What is differentiated: the losses, unless a subclass says otherwise."""
        return self.specimen.losses(self.specimen.forward(batch), batch)
