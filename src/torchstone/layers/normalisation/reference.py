r"""Batch normalisation written out, with its backward pass in closed form.

y = (x - mu) / sqrt(var + eps), z = gamma y + beta, over m numbers a channel (all images and pixels for convolutions). With
g = dL/dz:

    dL/dx = gamma / (m sqrt(var + eps)) (m g - sum g - y sum(g y)).

So |dL/dx|^2 = gamma^2 / (var + eps) (|g|^2 - <1, g>^2 / m - <g, y>^2 / m) where eps = 0: what batch normalisation takes away
is the gradient's mean and its component along y.
Source: Ioffe & Szegedy 2015, section 3; Santurkar et al. 2018, theorem 4.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class BatchNormed:
    """A forward pass over (m, C), with what its backward pass needs.

    Attributes:
        output: z (m, C).
        normal: y (m, C).
        deviation: sqrt(var + eps) (C,).
        scale: gamma (C,).
        mean: mu (C,).
        variance: Biased variance (C,), which normalises; running averages take m / (m - 1) of it.
    """

    output: Float[Tensor, "m c"]
    normal: Float[Tensor, "m c"]
    deviation: Float[Tensor, " c"]
    scale: Float[Tensor, " c"]
    mean: Float[Tensor, " c"]
    variance: Float[Tensor, " c"]


def batch_norm(
    x: Float[Tensor, "m c"], scale: Float[Tensor, " c"], shift: Float[Tensor, " c"], eps: float = 1e-5
) -> BatchNormed:
    """Normalise each column over its rows; images (N, C, H, W) as `x.movedim(1, -1).reshape(-1, C)`."""
    mean = x.mean(0)
    variance = (x - mean).square().mean(0)
    deviation = (variance + eps).sqrt()
    normal = (x - mean) / deviation
    return BatchNormed(scale * normal + shift, normal, deviation, scale, mean, variance)


def batch_norm_backward(
    forward: BatchNormed, gradient: Float[Tensor, "m c"]
) -> tuple[Float[Tensor, "m c"], Float[Tensor, " c"], Float[Tensor, " c"]]:
    """dL/dx, dL/dgamma and dL/dbeta from g = dL/dz."""
    along = (gradient * forward.normal).sum(0)
    total = gradient.sum(0)
    count = gradient.shape[0]
    factor = forward.scale / (count * forward.deviation)
    return factor * (count * gradient - total - forward.normal * along), along, total


def squared_gradient_norm(forward: BatchNormed, gradient: Float[Tensor, "m c"]) -> Float[Tensor, " c"]:
    """|dL/dx|^2 of each channel by the identity of Santurkar et al. (2018), exact for eps = 0."""
    count = gradient.shape[0]
    along = (gradient * forward.normal).sum(0).square() / count
    constant = gradient.sum(0).square() / count
    total = gradient.square().sum(0)
    return (forward.scale / forward.deviation).square() * (total - constant - along)


def running_update(running: Tensor, batch: Tensor, momentum: float) -> Tensor:
    """(1 - momentum) running + momentum batch, as `torch.nn.BatchNorm1d` does."""
    return torch.lerp(running, batch, momentum)
