"""Convolutions that keep every input's norm: an orthogonal matrix in the middle of the kernel, zero elsewhere."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchstone.errors import SettingError


@torch.no_grad()
def delta_orthogonal_(weight: Tensor, gain: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
    """Fill a convolution's weight (out, in, *kernel) with gain times a delta-orthogonal kernel.

    K[:, :, middle] = H with H^T H = I and K = 0 elsewhere, so that circular convolution of stride 1 multiplies every
    input's norm by the gain: all its singular values are equal. Networks of 10,000 such layers train.

    Args:
        weight: (out, in, *kernel), changed in place; at least as many outputs as inputs.
        gain: sigma_w.
        generator: Draws H, uniformly among orthonormal columns (Haar).

    Returns:
        The weight.

    Raises:
        SettingError: Fewer outputs than inputs (no kernel keeps every norm then), an even kernel, or no convolution.

    Source: Xiao et al. 2018, ICML, section 3.3 and algorithm 1.
    """
    if weight.ndim < 3:
        raise SettingError(
            "delta_orthogonal_ takes a convolution's weight (out, in, *kernel)",
            f"shape {tuple(weight.shape)}",
            "Use torch.nn.init.orthogonal_ for matrices.",
        )
    outputs, inputs, *kernel = weight.shape
    if outputs < inputs:
        raise SettingError(
            "A delta-orthogonal convolution has at least as many outputs as inputs",
            f"{inputs} inputs and {outputs} outputs",
            "Use orthogonal or kaiming for this layer.",
        )
    if any(size % 2 == 0 for size in kernel):
        raise SettingError(
            "A kernel with a middle has odd sizes", f"{tuple(kernel)}", "Use orthogonal for this layer."
        )
    matrix = torch.empty(outputs, inputs, dtype=weight.dtype)
    nn.init.orthogonal_(matrix, gain, generator)
    weight.zero_()
    weight[(slice(None), slice(None), *(size // 2 for size in kernel))] = matrix.to(weight.device)
    return weight
