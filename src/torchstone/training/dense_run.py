"""Linear layers with ReLUs between them, of many networks at once, as one step of autograd."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_THRESHOLD = torch.ops.aten.threshold_backward


class DenseRun:
    """A run of linear layers and ReLUs: a function of activations (K, B, ..., width) and the networks' stacked tensors.

    Small networks spend their time in calls, of which a layer alone takes five and two steps of autograd.
    """

    def __init__(self) -> None:
        self._names: list[str | None] = []
        self._rectified: list[bool] = []

    def add(self, names: Mapping[str, str]) -> None:
        """A linear layer, by the names under which the network knows its weight and bias."""
        self._names += [names["weight"], names.get("bias")]
        self._rectified.append(False)

    def rectify(self) -> None:
        """A ReLU after the last layer."""
        self._rectified[-1] = True

    def __call__(self, h: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
        """The activations after the run."""
        own = [None if name is None else tensors[name] for name in self._names]
        columns: Any = _Run.apply((h.flatten(1, -2) if h.ndim > 3 else h).mT, self._rectified, *own)
        return columns.mT.unflatten(1, h.shape[1:-1]) if h.ndim > 3 else columns.mT


class _Run(torch.autograd.Function):
    """relu(W x + b) again and again on examples in columns (K, width, B).

    So every factor but one is read as it lies in memory, and gradients of W come as W lies, which autograd's own do not.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, rectified: list[bool], *tensors: Tensor | None) -> Tensor:
        inputs = [x]
        for k, follows in enumerate(rectified):
            weight, bias = tensors[2 * k : 2 * k + 2]
            assert weight is not None
            last = inputs[-1]
            h = torch.bmm(weight, last) if bias is None else torch.baddbmm(bias.unsqueeze(2), weight, last)
            inputs.append(h.relu_() if follows else h)
        # What follows may write into the output, unless it is needed to know where the last ReLU was 0.
        ctx.save_for_backward(*tensors[::2], *(inputs if rectified[-1] else inputs[:-1]))
        ctx.rectified = rectified
        return inputs[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Any) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (slope,) = slopes
        count = len(ctx.rectified)
        weights, inputs = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
        of_x, _, *needed = ctx.needs_input_grad
        found: list[Tensor | None] = [None] * (2 * count)
        first = next((k for k in range(count) if of_x or any(needed[: 2 * k + 2])), count)
        for k in reversed(range(first, count)):
            if ctx.rectified[k]:
                slope = _THRESHOLD(slope, inputs[k + 1], 0)
            if needed[2 * k]:
                found[2 * k] = torch.bmm(slope, inputs[k].mT)
            if needed[2 * k + 1]:
                found[2 * k + 1] = slope.sum(2)
            if of_x or k > first:
                slope = torch.bmm(weights[k].mT, slope)
        return slope if of_x else None, None, *found
