"""Lengths, dual lengths and steepest directions of perturbations, one per example, for inputs of any shape."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from torchstone.errors import SettingError

Norm = Literal["linf", "l2"]


def flat(x: Tensor) -> Tensor:
    """One row per example: (N, ...) becomes (N, d); an input (N,) is one feature an example."""
    return x[:, None] if x.ndim == 1 else x.flatten(1)


def per_example(values: Tensor, like: Tensor) -> Tensor:
    """Values (N,) shaped (N, 1, ..., 1), so that they scale the examples of `like`."""
    return values.reshape(len(values), *[1] * (like.ndim - 1))


def wide(x: Tensor) -> Tensor:
    """The same numbers in float64, or in float32 on a device that has no float64."""
    return x.to(torch.float32 if x.device.type == "mps" else torch.float64)


def lengths(perturbations: Tensor, norm: Norm) -> Tensor:
    r"""Norm of each perturbation: :math:`\max_i |\delta_i|` (linf) or :math:`(\sum_i \delta_i^2)^{1/2}` (l2).

    Args:
        perturbations: (N, ...), any float dtype; computed in float64.
        norm: "linf" or "l2".

    Returns:
        (N,), in the unit of the inputs.

    Raises:
        SettingError: An unknown norm.

    Example:
        >>> delta = torch.tensor([[3.0, -4.0]])
        >>> lengths(delta, "linf").item(), lengths(delta, "l2").item()
        (4.0, 5.0)
    """
    rows = flat(wide(perturbations.detach()))
    largest = rows.abs().amax(dim=1)
    if require_norm(norm) == "linf":
        return largest
    # The largest entry is divided out first, so that squares neither overflow nor vanish.
    unit = torch.where((largest > 0) & torch.isfinite(largest), largest, torch.ones_like(largest))
    return (rows / unit[:, None]).square().sum(dim=1).sqrt() * unit


def distances(inputs: Tensor, others: Tensor, norm: Norm) -> Tensor:
    """Distance of each example to its counterpart, (N,), in the unit of the inputs."""
    return lengths(wide(inputs.detach()) - wide(others.detach()), norm)


def dual_lengths(gradients: Tensor, norm: Norm) -> Tensor:
    r"""Dual norm of each gradient, :math:`\|g\|_* = \max_{\|v\| \le 1} \langle g, v \rangle`: l1 for linf, l2 for l2.

    Args:
        gradients: (N, ...).
        norm: The norm of the perturbations, not of the gradients.

    Returns:
        (N,), in the unit of the loss per unit of the inputs.
    """
    if require_norm(norm) == "linf":
        return flat(wide(gradients.detach())).abs().sum(dim=1)
    return lengths(gradients, "l2")


def steepest(gradients: Tensor, norm: Norm) -> Tensor:
    r"""Direction of unit norm along which the loss rises fastest, :math:`\arg\max_{\|v\| \le 1} \langle g, v \rangle`.

    The signs of g (linf) or :math:`g / \|g\|_2` (l2); zero where g is zero. NaN and infinite entries count as zero,
    so that one bad number does not spoil a perturbation.

    Args:
        gradients: (N, ...).
        norm: "linf" or "l2".

    Returns:
        (N, ...) in float64.

    Example:
        >>> steepest(torch.tensor([[3e-30, -4e-30]]), "l2").tolist()
        [[0.6..., -0.8...]]
    """
    gradients = wide(gradients.detach()).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    if require_norm(norm) == "linf":
        return gradients.sign()
    size = lengths(gradients, "l2")
    return gradients / per_example(torch.where(size > 0, size, torch.ones_like(size)), gradients)


def require_norm(norm: str) -> str:
    """The norm, where it is a known one."""
    if norm not in ("linf", "l2"):
        raise SettingError('norm must be "linf" or "l2"', repr(norm), "Pick one of them.")
    return norm
