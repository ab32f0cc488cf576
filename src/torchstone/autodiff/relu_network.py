"""Derivatives of ReLU networks in closed form, and the affine map that a piecewise linear network is around a point."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.autodiff.backpropagation import backpropagation
from torchstone.autodiff.operation import RELU, Affine, Operation
from torchstone.errors import SettingError


def chain_of(weights: Sequence[Tensor]) -> list[Operation]:
    """A_1, ReLU, A_2, ReLU, ..., A_L.

    Raises:
        SettingError: No weights, or shapes that do not fit.
    """
    if not weights or any(after.shape[1] != before.shape[0] for before, after in pairwise(weights)):
        shapes = [tuple(weight.shape) for weight in weights]
        raise SettingError("Weights must chain, A_i of shape (n_i, n_{i-1})", f"{shapes}", "Transpose them?")
    steps: list[Operation] = [Affine(weights[0])]
    for weight in weights[1:]:
        steps += [RELU, Affine(weight)]
    return steps


def jacobian_product(weights: Sequence[Tensor], x: Float[Tensor, " n"]) -> Float[Tensor, "m n"]:
    """A_L D_{L-1} A_{L-1} ... D_1 A_1 with D_i the diagonal matrix of active units: the Jacobian in x.

    Source: Hardt & Recht 2022, chapter 7, "A worked out example".
    """
    product, u = weights[0], weights[0] @ x
    for weight in weights[1:]:
        product, u = weight @ ((u > 0).to(x.dtype)[:, None] * product), weight @ torch.relu(u)
    return product


def weight_column_derivative(
    weights: Sequence[Tensor], x: Float[Tensor, " n"], layer: int, column: int
) -> Float[Tensor, "m k"]:
    """Derivative of the network's output in column j of A_i: B u_j.

    B = A_L D_{L-1} ... D_i is the Jacobian of the output in A_i u, and u_j the unit that the column multiplies.

    Args:
        weights: A_1, ..., A_L.
        x: Input.
        layer: i, from 1.
        column: j, from 0.

    Raises:
        SettingError: No such layer or column.
    """
    if not 1 <= layer <= len(weights) or not 0 <= column < weights[layer - 1].shape[1]:
        raise SettingError(
            f"layer must be 1 to {len(weights)} and column one of its columns",
            f"layer {layer}, column {column}",
            "Layers are counted from 1, columns from 0.",
        )
    found = backpropagation(chain_of(weights), x)
    position = 2 * (layer - 1)  # of A_i among the steps
    return found.jacobians[position + 1] * found.values[position][column]


@dataclass(frozen=True)
class AffineMap:
    """f(x') = J x' + c wherever the network's activation pattern is that of x.

    Attributes:
        jacobian: J (outputs, inputs).
        offset: c (outputs,).
    """

    jacobian: Float[Tensor, "m n"]
    offset: Float[Tensor, " m"]

    def __call__(self, x: Tensor) -> Tensor:
        """J x + c for an input of the network's shape."""
        return self.jacobian @ x.flatten() + self.offset


def local_affine_map(network: Callable[[Tensor], Any], x: Tensor, tolerance: float = 1e-4) -> AffineMap:
    """The affine map that a piecewise linear network is on the region around x.

    Cost: one reverse sweep an output.

    Args:
        network: Maps one batch (1, ...) to (1, ...); in eval mode.
        x: One input, without the batch dimension.
        tolerance: Relative deviation from linearity, along the ray to x, that is taken for rounding.

    Raises:
        SettingError: The network is curved at x along x.
    """
    function = lambda point: network(point[None]).flatten()
    jacobian = torch.func.jacrev(function)(x)
    assert isinstance(jacobian, Tensor)
    jacobian = jacobian.detach().flatten(1)
    second = torch.func.jvp(lambda point: torch.func.jvp(function, (point,), (x,))[1], (x,), (x,))[1].detach()
    slope = (jacobian @ x.flatten()).norm()
    if bool(second.norm() > tolerance * slope.clamp(min=torch.finfo(x.dtype).tiny)):
        raise SettingError(
            "The network must be linear around x",
            f"a slope along x that changes by {float(second.norm() / slope):.2g} of itself",
            "Use networks of ReLU-like units, with normalisation in eval mode.",
        )
    return AffineMap(jacobian, function(x).detach() - jacobian @ x.flatten())
