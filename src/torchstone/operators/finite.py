"""NaN and infinity are named where they first show, before they look like something else."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torchstone.errors import NumericalError


@torch.no_grad()
def require_outputs(outputs: Tensor) -> None:
    """Refuse NaN and infinite outputs, except -inf, which masks scores.

    Raises:
        NumericalError: There are some.
    """
    if not outputs.is_complex():
        _require(outputs < math.inf, "The network's outputs")


@torch.no_grad()
def require_losses(losses: Tensor, gradient: Tensor) -> None:
    """Refuse losses that are NaN or infinite somewhere, or whose gradient in the outputs is.

    Raises:
        NumericalError: They are.
    """
    _require(losses.isfinite(), "The losses")
    _require(gradient.isfinite(), "The losses' gradient in the outputs")


def _require(usable: Tensor, what: str) -> None:
    if not bool(usable.all()):
        raise NumericalError(
            f"{what} must be finite",
            f"{int((~usable).sum())} NaN or infinite of {usable.numel()}",
            "Look for overflow, divisions and logarithms in forward() and the objective, and check data and weights.",
        )
