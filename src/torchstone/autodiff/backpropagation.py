"""Backpropagation through a chain of steps, as the textbooks write it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.autodiff.operation import Operation
from torchstone.errors import SettingError


@dataclass(frozen=True)
class Backpropagation:
    """What the two passes leave.

    Attributes:
        values: v_0 = w, v_1 = f_1(v_0), ..., v_L.
        jacobians: Lambda_0, ..., Lambda_L: of the output in each v_i, shape (k, n_i).
        forward_operations: Multiplications and additions of the forward pass.
        backward_operations: The same of the backward pass.
    """

    values: tuple[Tensor, ...]
    jacobians: tuple[Tensor, ...]
    forward_operations: int
    backward_operations: int

    @property
    def output(self) -> Tensor:
        """v_L."""
        return self.values[-1]

    @property
    def jacobian(self) -> Float[Tensor, "k n"]:
        """Lambda_0, of the output in the input."""
        return self.jacobians[0]


def forward(steps: Sequence[Operation], w: Float[Tensor, " n"]) -> list[Tensor]:
    """v_0 = w and v_i = f_i(v_{i-1}), all of them stored."""
    values = [w]
    for step in steps:
        values.append(step.value(values[-1]))
    return values


def backpropagation(
    steps: Sequence[Operation], w: Float[Tensor, " n"], cotangent: Float[Tensor, "k m"] | None = None
) -> Backpropagation:
    """Derivatives of z_L = f_L(... f_1(z_0)) in z_0 and in every intermediate z_i, at z_0 = w.

    Forward: v_0 = w, v_i = f_i(v_{i-1}), stored. Backward: Lambda_L = I, Lambda_{i-1} = Lambda_i D f_i(v_{i-1}).

    Cost: O(L C) with C the cost of a step, times the rows of Lambda_L; memory of all v_i.

    Args:
        steps: f_1, ..., f_L, each of one vector.
        w: Where to differentiate.
        cotangent: Lambda_L (k, m); the identity by default, which gives the whole Jacobian. One row u gives u^T D,
            the gradient of u^T z_L, at the cost of one.

    Returns:
        All v_i and Lambda_i, and the operations spent.

    Raises:
        SettingError: No steps, or an input that is not a vector.

    >>> from torchstone.autodiff.operation import RELU, Affine
    >>> A = torch.tensor([[1.0, -2.0], [3.0, 1.0]])
    >>> backpropagation([Affine(A), RELU], torch.tensor([1.0, 1.0])).jacobian[1]
    tensor([3., 1.])

    Source: Linnainmaa 1970; Rumelhart, Hinton & Williams 1986; Hardt & Recht 2022, chapter 7.
    """
    if not steps:
        raise SettingError("A chain needs at least one step", "none", "Pass [Affine(...), RELU, ...].")
    if w.ndim != 1:
        raise SettingError(
            "The input of a chain must be a vector",
            f"shape {tuple(w.shape)}",
            "Flatten it; keep one example.",
        )
    values = forward(steps, w)
    jacobian = torch.eye(values[-1].numel(), dtype=w.dtype) if cotangent is None else cotangent
    jacobians, rows = [jacobian], jacobian.shape[0]
    for step, value in zip(reversed(steps), reversed(values[:-1]), strict=True):
        (jacobian,) = step.pull(jacobian, value)
        jacobians.append(jacobian)
    pairs = list(zip(steps, values[:-1], strict=True))
    return Backpropagation(
        tuple(values),
        tuple(reversed(jacobians)),
        sum(step.operations(value) for step, value in pairs),
        rows * sum(step.pull_operations(value) for step, value in pairs),
    )
