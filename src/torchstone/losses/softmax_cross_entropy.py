r"""Softmax cross-entropy with its gradient and Hessian in the logits, in closed form.

For logits z in R^C, targets t in R^C (t >= 0) and y = softmax(z):

    L(z, t) = sum_k t_k (log sum_c exp(z_c) - z_k)
    dL/dz   = s y - t                 with s = sum_k t_k, which is 1 for probabilities: y - t
    d2L/dz2 = s (diag(y) - y y^T)     which does not depend on how t is spread over the classes

All are functions of z - max(z) and thus stay finite for any finite logits, and do not change when a constant is added
to every logit. A logit of -inf is a class that is masked out: it has probability 0, and where its target is 0 too it
adds nothing.
Source: Bridle 1990, section 2; Bishop 2006, equations (4.108) to (4.110).
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchstone.errors import SettingError


def softmax_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    r"""L(z, t) of every example, without reduction.

    Equals `torch.nn.functional.cross_entropy(..., reduction="none")` where that is finite, and also handles masked
    classes (logit -inf, target 0) with probability targets. Differentiable.

    Cost: one pass over the logits.

    Args:
        logits: z (..., C), floating point.
        targets: Class indices (...), or weights t (..., C), usually probabilities.

    Returns:
        Loss (...), in nats.

    Raises:
        SettingError: Shapes that do not match, or no classes.

    >>> softmax_cross_entropy(torch.tensor([0.0, 1e4]), torch.tensor(0))
    tensor(10000.)
    """
    weights = _weights(logits, targets)
    # log_softmax subtracts the largest logit first: log-sum-exp minus z would lose all digits at huge logits.
    log_y = logits.log_softmax(-1)
    return -(weights * log_y.masked_fill((weights == 0) & log_y.isinf(), 0.0)).sum(-1)


def softmax_cross_entropy_gradient(logits: Tensor, targets: Tensor) -> Tensor:
    """dL/dz = s y - t of every example, shape (..., C), with s = sum_k t_k; arguments as `softmax_cross_entropy`.

    >>> softmax_cross_entropy_gradient(torch.zeros(2), torch.tensor(1))
    tensor([ 0.5000, -0.5000])
    """
    weights = _weights(logits, targets)
    return weights.sum(-1, keepdim=True) * logits.softmax(-1) - weights


def softmax_cross_entropy_hessian(logits: Tensor, targets: Tensor | None = None) -> Tensor:
    """d2L/dz2 = s (diag(y) - y y^T) of every example, shape (..., C, C): positive semi-definite, kernel 1.

    Args:
        logits: z (..., C).
        targets: Only their sum s matters; None for s = 1.

    >>> softmax_cross_entropy_hessian(torch.zeros(2))
    tensor([[ 0.2500, -0.2500],
            [-0.2500,  0.2500]])
    """
    y = logits.softmax(-1)
    hessian = torch.diag_embed(y) - y.unsqueeze(-1) * y.unsqueeze(-2)
    if targets is None:
        return hessian
    return _weights(logits, targets).sum(-1)[..., None, None] * hessian


def softmax_cross_entropy_hessian_product(
    logits: Tensor, vectors: Tensor, targets: Tensor | None = None
) -> Tensor:
    """The products (d2L/dz2) v = s (y * v - y <y, v>), shape (..., C), without forming C x C matrices.

    Args:
        logits: z (..., C).
        vectors: v (..., C).
        targets: Only their sum s matters; None for s = 1.
    """
    y = logits.softmax(-1)
    product = y * (vectors - (y * vectors).sum(-1, keepdim=True))
    return product if targets is None else _weights(logits, targets).sum(-1, keepdim=True) * product


def _weights(logits: Tensor, targets: Tensor) -> Tensor:
    """Targets as weights of the logits' shape and type."""
    if logits.ndim == 0 or logits.shape[-1] == 0 or not logits.is_floating_point():
        raise SettingError(
            "logits must be floating point of shape (..., C) with C >= 1",
            f"{logits.dtype} of shape {tuple(logits.shape)}",
            "Pass one score a class, classes last.",
        )
    if targets.is_floating_point() and targets.shape == logits.shape:
        return targets.to(logits.dtype)
    if targets.is_floating_point() or targets.dtype is torch.bool or targets.shape != logits.shape[:-1]:
        raise SettingError(
            f"targets must be integer classes of shape {tuple(logits.shape[:-1])} or weights of shape {tuple(logits.shape)}",
            f"{targets.dtype} of shape {tuple(targets.shape)}",
            "Pass class indices, or probabilities with the classes last.",
        )
    classes = logits.shape[-1]
    if targets.numel() and not (int(targets.min()) >= 0 and int(targets.max()) < classes):
        raise SettingError(
            f"classes must lie between 0 and {classes - 1}",
            f"{int(targets.min())} to {int(targets.max())}",
            "Drop or renumber the others.",
        )
    return torch.nn.functional.one_hot(targets.long(), classes).to(logits.dtype)
