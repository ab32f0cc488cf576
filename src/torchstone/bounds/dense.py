"""A dense layer as the linear map that spectral bounds see."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from torchstone.errors import NumericalError, SettingError


class HasWeights(Protocol):
    """A layer with a weight and perhaps a bias."""

    @property
    def weight(self) -> Tensor:
        """The weight, output units first."""
        ...

    @property
    def bias(self) -> Tensor | None:
        """One offset an output unit or channel."""
        ...


@dataclass(frozen=True)
class DenseLayer:
    """The affine map x -> A x + b.

    Args:
        weight: A, (out, in), finite; PyTorch's `Linear.weight`.
        bias: b, (out,), or None.

    Raises:
        SettingError: Shapes that do not match.
        NumericalError: NaN or infinite weights.
    """

    weight: Tensor
    bias: Tensor | None = None

    def __post_init__(self) -> None:
        if self.weight.ndim != 2 or 0 in self.weight.shape:
            raise SettingError(
                "DenseLayer needs a weight (out, in)",
                f"shape {tuple(self.weight.shape)}",
                "Pass Linear.weight.",
            )
        check_layer(self.weight, self.bias)

    @property
    def dimensions(self) -> tuple[int, int]:
        """Number of outputs and inputs."""
        return self.weight.shape[0], self.weight.shape[1]

    def identity(self) -> DenseLayer:
        """The identity (rectangular: ones on the diagonal) with no bias, a reference for residual layers."""
        ones = torch.eye(*self.dimensions, dtype=torch.float64, device=self.weight.device)
        return replace(self, weight=ones, bias=None)

    def norm_bound(self) -> float:
        r""":math:`\|A\|_{op}`, exact to rounding by a singular value decomposition in float64."""
        return float(torch.linalg.matrix_norm(self.weight.detach().double(), 2))

    def bias_norm(self) -> float:
        r""":math:`\|b\|_2`."""
        return 0.0 if self.bias is None else float(self.bias.detach().double().norm())

    def two_one_norm(self, reference: DenseLayer | None = None) -> float:
        r""":math:`\|(A - M)^\top\|_{2,1}`: the sum over output units of the 2-norm of their incoming weights.

        The convention is :math:`\|B\|_{2,1} = \sum_j \|B_{:,j}\|_2` over columns (Bartlett, Foster & Telgarsky 2017,
        section 1.2), so on the transpose it runs over the rows of A. A bias is one more incoming weight.

        Args:
            reference: M, of the same shape; None for zero.

        Returns:
            The norm in float64.

        Raises:
            SettingError: A reference of another shape.

        Example:
            >>> DenseLayer(torch.tensor([[3.0, 4.0], [0.0, 1.0]])).two_one_norm()
            6.0
        """
        weight, bias = difference(self, reference)
        squares = weight.square().sum(dim=1)
        return float((squares if bias is None else squares + bias.square()).sqrt().sum())


def check_layer(weight: Tensor, bias: Tensor | None) -> None:
    """Refuses weights that are not finite and biases that do not match."""
    if bias is not None and bias.shape != weight.shape[:1]:
        raise SettingError(
            f"A bias must have shape ({weight.shape[0]},)",
            str(tuple(bias.shape)),
            "Pass the layer's own bias.",
        )
    if not all(bool(torch.isfinite(t).all()) for t in (weight, bias) if t is not None):
        raise NumericalError("Weights must be finite", "NaN or infinity", "The network has diverged.")


def difference(layer: HasWeights, reference: HasWeights | None) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of `layer` minus those of `reference`, in float64."""
    weight = layer.weight.detach().double()
    bias = None if layer.bias is None else layer.bias.detach().double()
    if reference is None:
        return weight, bias
    if reference.weight.shape != weight.shape:
        raise SettingError(
            f"A reference must have the layer's weight shape {tuple(weight.shape)}",
            str(tuple(reference.weight.shape)),
            "Pass the same layer's initial weights, its identity(), or None for zero.",
        )
    weight = weight - reference.weight.detach().to(weight)
    if reference.bias is not None:
        start = reference.bias.detach().to(weight)
        bias = -start if bias is None else bias - start
    return weight, bias
