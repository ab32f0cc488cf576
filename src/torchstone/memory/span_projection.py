r"""What a linear autoencoder learns by gradient descent: the projection onto the span of its examples."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.errors import NumericalError, SettingError


def span_projection(examples: Tensor, *, cutoff: float | None = None) -> Float[Tensor, "d d"]:
    r"""The orthogonal projection onto the span of the examples, :math:`X X^+` with an example a column.

    It is the minimum-norm linear map with :math:`W x_i = x_i` for all i, and idempotent: one application takes every
    input to the point of the span that is nearest to it.

    Cost: a singular value decomposition of N x d.

    Args:
        examples: (N, d), an example a row; computed in float64.
        cutoff: Singular values at most this fraction of the largest count as 0; None for eps max(N, d).

    Returns:
        W, float64 (d, d), for columns: f(x) = W x. It is symmetric.

    Raises:
        SettingError: Not a matrix, or empty.
        NumericalError: An entry is NaN or infinite.

    >>> span_projection(torch.tensor([[3.0, 4.0]])) @ torch.tensor([1.0, 0.0], dtype=torch.float64)
    tensor([0.3600, 0.4800], dtype=torch.float64)

    Source: Radhakrishnan, Yang, Belkin & Uhler 2019, section 3 (linear autoencoders from zero).
    """
    x = checked_rows(examples, "examples")
    _, values, directions = torch.linalg.svd(x, full_matrices=False)
    least = cutoff if cutoff is not None else max(x.shape) * torch.finfo(torch.float64).eps
    basis = directions[values > least * values[0]]
    return basis.T @ basis


def linear_autoencoder_limit(
    examples: Tensor, start: Tensor | None = None, *, cutoff: float | None = None
) -> Float[Tensor, "d d"]:
    r"""Where gradient descent on :math:`\sum_i |W x_i - x_i|^2` ends: :math:`P + W_0 (I - P)`, P the span projection.

    Every gradient is a combination of :math:`x_i^T`, so what W does to inputs orthogonal to all examples never changes.
    On one example :math:`\hat x` this is :math:`f(x) = \frac{x^T \hat x}{|\hat x|^2} \hat x + W_0 P_\perp x`. Only from
    a start with :math:`W_0 (I - P) = 0`, such as 0, is the limit the projection itself.

    Cost: as for `span_projection`.

    Args:
        examples: (N, d), an example a row.
        start: W_0, (d, d); None for 0.
        cutoff: As for `span_projection`.

    Returns:
        W, float64 (d, d), for columns.

    Raises:
        SettingError: Not a matrix, empty, or a start of another shape.
        NumericalError: An entry is NaN or infinite.

    Source: Zhang, Bengio, Hardt, Mozer & Singer 2020, section 3 (one example); Radhakrishnan et al. 2019 (several).
    """
    projection = span_projection(examples, cutoff=cutoff)
    if start is None:
        return projection
    if start.shape != projection.shape:
        raise SettingError(
            f"start must be a matrix {tuple(projection.shape)}, as wide as an example",
            f"shape {tuple(start.shape)}",
            "Pass the initial weight of the layer.",
        )
    initial = checked_rows(start, "start")
    return projection + initial - initial @ projection


def checked_rows(values: Tensor, name: str) -> Float[Tensor, "n d"]:
    """A matrix in float64 on its device, where it is not empty and finite.

    Raises:
        SettingError: Not a matrix, or empty.
        NumericalError: An entry is NaN or infinite.
    """
    if values.ndim != 2 or values.numel() == 0:
        raise SettingError(
            f"{name} must be a matrix (N, d) that is not empty",
            f"shape {tuple(values.shape)}",
            "Flatten each example to a row.",
        )
    values = values.detach().to(torch.float64)
    if not bool(values.isfinite().all()):
        raise NumericalError(
            f"{name} must be finite",
            f"{int((~values.isfinite()).sum())} of {values.numel()} entries are NaN or infinite",
            "Remove or repair them.",
        )
    return values
