"""Which gradients an example has: of its loss, of the factors of its loss Hessian, of labels that were drawn."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.batches import Batch
from torchstone.errors import SettingError
from torchstone.operators.finite import require_losses
from torchstone.operators.loss_curvature import LossCurvature, loss_curvature, losses_are_independent
from torchstone.operators.multinomial_root import multinomial_root
from torchstone.specimen import Specimen

Columns = tuple[Float[Tensor, "c n ..."], Float[Tensor, "c n"]]
"""Cotangents of the outputs' shape, C an example, and the sign of each."""


class Cotangents(ABC):
    """Vectors s_nc in the space of outputs: an example's C gradients are J_n^T s_nc."""

    @abstractmethod
    def of(self, specimen: Specimen, outputs: Tensor, batch: Batch, first: int) -> Columns:
        """The vectors of a batch and their signs in sum_c sign_nc s_nc s_nc^T.

        Args:
            specimen: The network.
            outputs: Of the batch; only their values are used.
            batch: The examples.
            first: Number of the batch's first example in its split.

        Raises:
            SettingError: The objective does not allow these.
        """


class OfLoss(Cotangents):
    """The gradient of each example's own loss: C = 1."""

    def of(self, specimen: Specimen, outputs: Tensor, batch: Batch, first: int) -> Columns:  # noqa: ARG002
        """See `Cotangents`."""
        return loss_cotangent(specimen, outputs, batch)[None], _plus(outputs, 1)


class OfCurvature(Cotangents):
    """Factors of the loss Hessian in the outputs: sum_c sign_nc s_nc s_nc^T = d^2 l_n / df^2.

    As many as its rank where it is a softmax's (C - 1 a position), one an output where it is diagonal; of other losses, up to
    48 outputs, as many as some example of the batch has non-zero eigenvalues.

    Args:
        most: Refuse more than that an example.
    """

    def __init__(self, most: int) -> None:
        self.most = most

    def of(self, specimen: Specimen, outputs: Tensor, batch: Batch, first: int) -> Columns:  # noqa: ARG002
        """See `Cotangents`."""
        found = loss_curvature(specimen, outputs.detach(), batch, structured=True)
        if isinstance(found, str):
            raise SettingError(
                "Factors of the Gauss-Newton matrix need a loss Hessian in the outputs that can be decomposed",
                found,
                "Use GaussNewton with top_eigenpairs, which needs products only.",
            )
        softmax = found.kind == "softmax"
        positions, classes = found.vectors.shape[1:] if softmax else (found.count, 2)
        count = positions * (classes - 1)
        if count > self.most:
            raise SettingError(
                f"The dual takes at most {self.most:,} factors an example here",
                f"{count:,}",
                "Use top_eigenpairs with GaussNewton, fewer examples, or raise most_rows: time grows with its cube.",
            )
        if not count:
            return outputs.detach().new_zeros(0, *outputs.shape), _plus(outputs, 0)
        if softmax:
            return _softmax_columns(found), _plus(outputs, count)
        columns = [found.column(k) for k in range(found.count)]
        return torch.stack([column for column, _ in columns]), torch.stack([sign for _, sign in columns])


def _softmax_columns(found: LossCurvature) -> Tensor:
    """Columns of the roots of w (diag(p) - p p^T), position by position."""
    examples, positions, classes = found.vectors.shape
    roots = multinomial_root(found.vectors) * found.signs.sqrt()[..., None, None]
    columns = roots.new_zeros(positions, classes - 1, examples, positions, classes)
    for position in range(positions):
        columns[position, :, :, position] = roots[:, position].movedim(2, 0)
    return torch.stack([found.in_place(column) for column in columns.flatten(0, 1)])


def loss_cotangent(specimen: Specimen, outputs: Tensor, batch: Batch) -> Float[Tensor, "n ..."]:
    """Gradient of each loss in its own example's outputs, of their shape and type.

    Raises:
        SettingError: The losses of a batch depend on each other, so that no gradient belongs to one example.
        NumericalError: Losses, or their gradient, are NaN or infinite.
    """
    leaf = outputs.detach().requires_grad_(True)
    with torch.enable_grad():
        losses = specimen.losses(leaf, batch)
        if not losses.requires_grad:
            return torch.zeros_like(leaf, requires_grad=False)
        (gradient,) = torch.autograd.grad(losses.sum(), leaf, retain_graph=True)
        require_losses(losses, gradient)
        if not losses_are_independent(losses, leaf, gradient):
            raise SettingError(
                "Gradients of single examples need losses that depend on their own example only",
                "losses of a batch that depend on each other",
                "Use GaussNewton or Hessian, which need no single examples.",
            )
    return gradient.detach()


def _plus(outputs: Tensor, columns: int) -> Tensor:
    return torch.ones(columns, outputs.shape[0], dtype=torch.float64, device=outputs.device)
