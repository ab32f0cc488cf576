"""What the Hessian, Gauss-Newton and Fisher matrices have in common: symmetric, in the trainable parameters."""

from __future__ import annotations

from collections.abc import Iterable

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
