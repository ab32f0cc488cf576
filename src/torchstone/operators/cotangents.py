"""Which gradients an example has: of its loss, of the factors of its loss Hessian, of labels that were drawn."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.batches import Batch
from torchstone.errors import SettingError
from torchstone.operators.loss_curvature import loss_curvature, losses_are_independent
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
    """Factors of the loss Hessian in the outputs: sum_c sign_nc s_nc s_nc^T = d^2 l_n / df^2."""

    def of(self, specimen: Specimen, outputs: Tensor, batch: Batch, first: int) -> Columns:  # noqa: ARG002
        """See `Cotangents`."""
        found = loss_curvature(specimen, outputs.detach(), batch)
        if isinstance(found, str):
            raise SettingError(
                "Factors of the Gauss-Newton matrix need a loss Hessian in the outputs that can be decomposed",
                found,
                "Use GaussNewton with top_eigenpairs, which needs products only.",
            )
        columns = [found.column(k) for k in range(found.count)]
        if not columns:
            return outputs.detach().new_zeros(0, *outputs.shape), _plus(outputs, 0)
        return torch.stack([column for column, _ in columns]), torch.stack([sign for _, sign in columns])


def loss_cotangent(specimen: Specimen, outputs: Tensor, batch: Batch) -> Float[Tensor, "n ..."]:
    """Gradient of each loss in its own example's outputs, of their shape and type.

    Raises:
        SettingError: The losses of a batch depend on each other, so that no gradient belongs to one example.
    """
    leaf = outputs.detach().requires_grad_(True)
    with torch.enable_grad():
        losses = specimen.losses(leaf, batch)
        if not losses.requires_grad:
            return torch.zeros_like(leaf, requires_grad=False)
        (gradient,) = torch.autograd.grad(losses.sum(), leaf, retain_graph=True)
        if not losses_are_independent(losses, leaf, gradient):
            raise SettingError(
                "Gradients of single examples need losses that depend on their own example only",
                "losses of a batch that depend on each other",
                "Use GaussNewton or Hessian, which need no single examples.",
            )
    return gradient.detach()


def _plus(outputs: Tensor, columns: int) -> Tensor:
    return torch.ones(columns, outputs.shape[0], dtype=torch.float64, device=outputs.device)
