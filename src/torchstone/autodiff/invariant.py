"""The invariant of backpropagation, checked at every step: Lambda_i is the derivative of the output in z_i."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.autodiff.backpropagation import backpropagation, forward
from torchstone.autodiff.operation import Operation
from torchstone.errors import NumericalError


@dataclass(frozen=True)
class InvariantCheck:
    """How far each Lambda_i is from the derivative that forward mode finds.

    Attributes:
        errors: max |Lambda_i - D_{z_i} z_L(v_i)| for i = 0, ..., L.
        wrong: Steps (1 to L) that break the invariant: right behind them, wrong before them.
    """

    errors: tuple[float, ...]
    wrong: tuple[int, ...]


def check_invariant(
    steps: Sequence[Operation], w: Float[Tensor, " n"], tolerance: float = 1e-8
) -> InvariantCheck:
    """Compare every Lambda_i with forward mode from z_i onwards, and say which steps are to blame.

    Each step is also judged by itself, so that a second wrong step is found although everything before the first one
    is wrong anyway.

    Cost: forward mode through the rest of the chain for every i: O(L^2) steps. For tests and lessons.

    Args:
        steps: The chain.
        w: Where to differentiate.
        tolerance: Largest difference taken for rounding, relative to the largest entry of the derivative (at least 1).

    Source: Hardt & Recht 2022, chapter 7, "Backpropagation invariant".
    """
    found = backpropagation(steps, w)
    errors, wrong = [], []
    for i, (value, jacobian) in enumerate(zip(found.values, found.jacobians, strict=True)):
        errors.append(_distance(jacobian, _rest(steps[i:], value)))
    for i, (step, value) in enumerate(zip(steps, found.values[:-1], strict=True), start=1):
        output = found.values[i]
        (local,) = step.pull(torch.eye(output.numel(), dtype=w.dtype), value)
        if not _distance(local, _rest([step], value)) <= tolerance:
            wrong.append(i)
    return InvariantCheck(tuple(errors), tuple(wrong))


def require_invariant(steps: Sequence[Operation], w: Float[Tensor, " n"], tolerance: float = 1e-8) -> None:
    """Assert the invariant.

    Raises:
        NumericalError: Naming the steps whose local derivative is wrong.
    """
    found = check_invariant(steps, w, tolerance)
    if found.wrong:
        named = ", ".join(f"{i} ({type(steps[i - 1]).__name__})" for i in found.wrong)
        raise NumericalError(
            "Lambda_i must be the derivative of the output in z_i",
            f"a wrong local derivative in step {named}",
            "Correct its pull().",
        )


def _rest(steps: Sequence[Operation], value: Tensor) -> Tensor:
    """Derivative of the rest of the chain by forward mode."""
    derivative = torch.func.jacfwd(lambda z: forward(steps, z)[-1])(value)
    assert isinstance(derivative, Tensor)
    return derivative


def _distance(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1))
