"""Normalisation over any partition of a batch's numbers: batch, layer, group and instance normalisation are four."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torchstone.errors import SettingError


def partition_normalise(x: Tensor, blocks: Tensor, eps: float = 1e-5) -> Tensor:
    """(x_i - mean of i's block) / sqrt(variance of i's block + eps) for every number x_i of a tensor.

    Cost: two scatter-additions.

    Args:
        x: Any shape.
        blocks: Whole numbers, broadcastable to x: which block each number belongs to.
        eps: Added to each variance.

    Returns:
        A tensor like x in which every block has mean 0 and variance var / (var + eps).

    Raises:
        SettingError: Blocks that are not whole numbers or do not fit x, numbers x that are not floating-point, or a
            negative eps.

    >>> x = torch.tensor([[1.0, 3.0], [10.0, 30.0]])
    >>> partition_normalise(x, torch.tensor([[0], [1]]), eps=0.0)
    tensor([[-1.,  1.],
            [-1.,  1.]])

    Source: Ren et al. 2017, ICLR, section 3 (one formula for batch, layer and divisive normalisation).
    """
    if not isinstance(blocks, Tensor) or blocks.is_floating_point() or blocks.is_complex():
        got = str(blocks.dtype) if isinstance(blocks, Tensor) else type(blocks).__name__
        raise SettingError("blocks must be a tensor of whole numbers", got, "Pass a tensor of type long.")
    _require_floating(x, eps)
    try:
        spread = blocks.expand(x.shape) if blocks.ndim == x.ndim else blocks.broadcast_to(x.shape)
    except RuntimeError:
        raise SettingError(
            f"blocks must broadcast to the input's shape {tuple(x.shape)}",
            f"{tuple(blocks.shape)}",
            "Reshape them.",
        ) from None
    _, index = torch.unique(spread, return_inverse=True)
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    flat, index = wide.reshape(-1), index.reshape(-1)
    count = torch.bincount(index)
    mean = torch.zeros(len(count), dtype=wide.dtype, device=x.device).index_add(0, index, flat) / count
    centred = flat - mean[index]
    variance = torch.zeros_like(mean).index_add(0, index, centred.square()) / count
    return (centred / (variance + eps).sqrt()[index]).reshape(x.shape).to(x.dtype)


def batch_blocks(shape: tuple[int, ...]) -> Tensor:
    """Blocks of batch normalisation: a channel over the whole batch and all positions."""
    _require_channels(shape)
    return torch.arange(shape[1]).view(1, -1, *(1,) * (len(shape) - 2))


def layer_blocks(shape: tuple[int, ...]) -> Tensor:
    """Blocks of layer normalisation over all but the first axis: an example each."""
    return torch.arange(shape[0]).view(-1, *(1,) * (len(shape) - 1))


def instance_blocks(shape: tuple[int, ...]) -> Tensor:
    """Blocks of instance normalisation: a channel of an example each."""
    _require_channels(shape)
    return torch.arange(shape[0] * shape[1]).view(*shape[:2], *(1,) * (len(shape) - 2))


def group_blocks(shape: tuple[int, ...], groups: int) -> Tensor:
    """Blocks of group normalisation: groups of neighbouring channels within an example, never across the batch.

    Raises:
        SettingError: Groups that do not divide the channels.
    """
    _require_channels(shape)
    if not isinstance(groups, int) or groups < 1 or shape[1] % groups:
        raise SettingError(
            "groups must divide the channels", f"{groups} groups of {shape[1]} channels", "Change groups."
        )
    group = torch.arange(shape[1]) // (shape[1] // groups)
    blocks = torch.arange(shape[0])[:, None] * groups + group
    return blocks.view(*shape[:2], *(1,) * (len(shape) - 2))


def window_normalise(x: Tensor, window: int, eps: float = 1e-5) -> Tensor:
    """Divisive normalisation over overlapping windows of channels: each channel by the mean and spread around it.

    Windows are cut off at the ends; there they average over fewer channels.

    Args:
        x: (N, C, ...).
        window: Channels of a window, odd.
        eps: Added to each variance.

    Raises:
        SettingError: An even window or one below 1, a shape without channels, whole numbers, or a negative eps.

    Source: Ren et al. 2017, section 3.3; Krizhevsky et al. 2012, section 3.3 (local response normalisation).
    """
    if not isinstance(window, int) or window < 1 or window % 2 == 0:
        raise SettingError("window must be an odd number of at least 1", f"{window}", "3 or 5 are usual.")
    _require_channels(x.shape)
    _require_floating(x, eps)
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    channels = x.shape[1]
    distance = (torch.arange(channels)[:, None] - torch.arange(channels)).abs()
    near = (distance <= window // 2).to(device=x.device, dtype=wide.dtype)
    average = near / near.sum(1, keepdim=True)
    with torch.autocast(x.device.type, enabled=False):  # it would round the means
        mean = torch.einsum("cd,nd...->nc...", average, wide)
        second = torch.einsum("cd,nd...->nc...", average, (wide - mean).square())
    return ((wide - mean) / (second + eps).sqrt()).to(x.dtype)


def _require_channels(shape: tuple[int, ...]) -> None:
    if len(shape) < 2:
        raise SettingError(
            "Channels are the second axis of (N, C, ...)", f"shape {tuple(shape)}", "Add an axis."
        )


def _require_floating(x: Tensor, eps: float) -> None:
    if not x.is_floating_point() or not eps >= 0:
        raise SettingError(
            "Normalisation takes floating-point numbers and eps >= 0",
            f"{x.dtype}, eps={eps}",
            "Call x.float().",
        )


def block_sizes(blocks: Tensor, shape: tuple[int, ...]) -> Tensor:
    """How many numbers each block of a tensor of that shape holds."""
    repeats = math.prod(shape) // blocks.broadcast_to(shape).numel()
    return torch.unique(blocks.broadcast_to(shape), return_counts=True)[1] * repeats
