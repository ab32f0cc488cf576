"""Does a map act as the identity, or does it return what it was trained on?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.errors import SettingError


@dataclass(frozen=True)
class IdentityCorrelations:
    """Correlations of outputs with their inputs and with the training examples.

    Attributes:
        identity: Pearson correlation of each output with its own input, (M,); NaN where either is constant.
        constant: Largest correlation of each output with a training example, (M,).
        nearest: That training example, (M,).
    """

    identity: Float[Tensor, " m"]
    constant: Float[Tensor, " m"]
    nearest: Tensor


def identity_correlations(inputs: Tensor, outputs: Tensor, examples: Tensor) -> IdentityCorrelations:
    """Correlation of f(x) with x (the identity) and with the training example it is most like (a constant function).

    A network that was trained to reproduce one example may have learned either: on new inputs the identity has a first
    correlation of 1, the constant function a second one of 1.

    Args:
        inputs: x, (M, ...).
        outputs: f(x), (M, ...).
        examples: Training examples, (N, ...).

    Returns:
        Correlations over an example's coordinates, float64.

    Raises:
        SettingError: Shapes that differ.

    Source: Zhang, Bengio, Hardt, Mozer & Singer 2020, section 4 (correlation with the two hypotheses).
    """
    if inputs.shape != outputs.shape or inputs.shape[1:] != examples.shape[1:] or len(examples) == 0:
        raise SettingError(
            "inputs and outputs must have one shape (M, ...), examples (N, ...) with N at least 1",
            f"{tuple(inputs.shape)}, {tuple(outputs.shape)}, {tuple(examples.shape)}",
            "Pass a map whose output has the input's shape.",
        )
    x, f, stored = _standard(inputs), _standard(outputs), _standard(examples)
    with_stored = f @ stored.T
    best, nearest = with_stored.nan_to_num(nan=-2.0).max(1)
    constant = torch.where(best < -1.5, torch.nan, best)
    return IdentityCorrelations((x * f).sum(1), constant, nearest)


def _standard(rows: Tensor) -> Tensor:
    """Centred rows of length 1; NaN where a row is constant."""
    flat = rows.detach().to(torch.float64).flatten(1)
    centred = flat - flat.mean(1, keepdim=True)
    length = torch.linalg.vector_norm(centred, dim=1, keepdim=True)
    tiny = 1e-12 * torch.linalg.vector_norm(flat, dim=1, keepdim=True)
    return torch.where(length > tiny, centred / length, torch.nan)
