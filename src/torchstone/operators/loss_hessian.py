"""Products with the Hessian of a batch's losses in its outputs."""

from __future__ import annotations

import torch
from torch import Tensor

from torchstone.batches import Batch
from torchstone.operators.finite import require_losses
from torchstone.operators.finite_differences import difference_step
from torchstone.operators.output_curvature import Weigher
from torchstone.specimen import Specimen


def hessian_weigher(specimen: Specimen, outputs: Tensor, batch: Batch) -> Weigher | None:
    """Multiplication by d^2 l / df^2, by automatic differentiation; None where the losses are affine in the outputs."""
    leaf = outputs.detach().requires_grad_(True)
    gradient = _loss_gradient(specimen, leaf, batch, True)
    if not gradient.requires_grad:
        return None

    def weigh(pushed: Tensor) -> Tensor:
        (weighted,) = torch.autograd.grad(
            gradient, leaf, pushed.to(gradient.dtype), retain_graph=True, materialize_grads=True
        )
        return weighted

    return weigh


def hessian_weigher_by_differences(specimen: Specimen, outputs: Tensor, batch: Batch) -> Weigher:
    """The same by central differences of the loss gradient."""

    def weigh(pushed: Tensor) -> Tensor:
        step = difference_step(outputs, pushed)
        if step == 0:
            return torch.zeros_like(outputs)
        ends = []
        for sign in (1.0, -1.0):
            moved = (outputs + sign * step * pushed).to(outputs.dtype).requires_grad_(True)
            ends.append(_loss_gradient(specimen, moved, batch, False).double())
        return (ends[0] - ends[1]) / (2 * step)

    return weigh


def _loss_gradient(specimen: Specimen, leaf: Tensor, batch: Batch, differentiable: bool) -> Tensor:
    """Gradient of the batch's summed loss in the outputs."""
    with torch.enable_grad():
        losses = specimen.losses(leaf, batch)
        if not losses.requires_grad:
            return torch.zeros_like(leaf, requires_grad=False)
        (gradient,) = torch.autograd.grad(losses.sum(), leaf, create_graph=differentiable)
        require_losses(losses, gradient)
        return gradient
