"""What the Hessian, Gauss-Newton and Fisher matrices have in common: symmetric, in the trainable parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.operators.differentiated_map import DOUBLE_BACKWARD, GRAPH_BYTES, DifferentiatedMap
from torchstone.operators.parameter_space import ParameterSpace
from torchstone.specimen import Specimen

__all__ = ["DOUBLE_BACKWARD", "GRAPH_BYTES", "CurvatureMap"]


class CurvatureMap(DifferentiatedMap):
    """A symmetric matrix of second derivatives in the trainable parameters.

    Args:
        specimen: What is examined.
        split: Part of the data.
        names: Only these parameters; None for all trainable ones.

    Raises:
        SpecimenError: No trainable parameter, or a complex one.
    """

    def __init__(self, specimen: Specimen, split: str, names: Iterable[str] | None) -> None:
        self.space = ParameterSpace.of(specimen, names)
        shape = (self.space.size, self.space.size)
        super().__init__(specimen, split, shape, self.space.dtype, self.space.device, symmetric=True)

    def principal_products(
        self, X: Float[Tensor, "n k"], spaces: Sequence[ParameterSpace]
    ) -> Float[Tensor, "n k"]:
        """A_bb X_b for principal blocks b, on the graphs that products with A use.

        Args:
            X: X_b of all blocks below one another.
            spaces: Parameters of each block.

        Returns:
            The products below one another.
        """
        return self._trusted(
            lambda: self._principal_by_double_backward(X, spaces),
            lambda: self._embedded(X, spaces, self._by_differences),
        )

    def _principal_by_double_backward(
        self, X: Float[Tensor, "n k"], spaces: Sequence[ParameterSpace]
    ) -> Float[Tensor, "n k"]:
        """Principal products in float64; cheaper in subclasses that can leave out the other parameters."""
        return self._embedded(X, spaces, self._by_double_backward)

    def _embedded(
        self,
        X: Float[Tensor, "n k"],
        spaces: Sequence[ParameterSpace],
        product: Callable[[Tensor], Tensor],
    ) -> Float[Tensor, "n k"]:
        """One product of A a block, with zeros outside the block."""
        parts = []
        for space, part in zip(spaces, X.split([space.size for space in spaces]), strict=True):
            places = self.space.indices(space.names).to(X.device)
            whole = X.new_zeros(self.space.size, X.shape[1])
            whole[places] = part
            parts.append(product(whole)[places])
        return torch.cat(parts)
