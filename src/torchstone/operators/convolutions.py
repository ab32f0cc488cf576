"""Convolutions whose second derivative costs no more than it must."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_BACKWARD = torch.ops.aten.convolution_backward.default
_FORWARD = torch.ops.aten.convolution.default


def efficient_convolution(func: Any, args: Any, kwargs: Any, linear: bool) -> Tensor | None:
    r"""A convolution that leaves a graph that differentiates in 6 convolutions where its backward pass takes 2.

    The derivative of a convolution's backward pass :math:`g_x = C_x^*(g, W), g_W = C_W^*(x, g)` along cotangents
    :math:`u_x, u_W` is

    .. math:: g: C(u_x, W) + C(x, u_W), \qquad x: C_x^*(g, u_W), \qquad W: C_W^*(u_x, g),

    each an ordinary convolution or one of its two adjoints. PyTorch's own formula computes all of them even where only
    one is asked for, and the last by a convolution with a kernel as large as an image.

    Args:
        func: What is called.
        args: Of the call.
        kwargs: Of the call.
        linear: The backward pass is differentiated in the gradient g alone.

    Returns:
        The output, PyTorch's bit by bit; None where the call is of another kind, or not dense, real and batched.
    """
    found = _arguments(func, args, kwargs) if func in _CALLS else None
    made: Any = None if found is None else _Convolution.apply(*found, linear)
    return made


class _Convolution(torch.autograd.Function):
    """C(x, W) + b, and its backward pass."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Any, linear: bool
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry, ctx.linear = geometry, linear
        return _FORWARD(x, weight, bias, *geometry)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        mask = ctx.needs_input_grad[:3]
        if not torch.is_grad_enabled():
            return *_pull(gradient, x, weight, ctx.geometry, mask), None, None
        if ctx.linear:
            x, weight = x.detach(), weight.detach()
        return *_PullBack.apply(gradient, x, weight, ctx.geometry, mask), None, None


class _PullBack(torch.autograd.Function):
    """The gradients of x, W and b, and their derivatives."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, x: Tensor, weight: Tensor, geometry: Any, mask: Any) -> Any:
        ctx.save_for_backward(gradient, x, weight)
        ctx.set_materialize_grads(False)
        ctx.geometry = geometry
        return _pull(gradient, x, weight, geometry, mask)

    @staticmethod
    def backward(ctx: Any, u_x: Tensor | None, u_weight: Tensor | None, u_bias: Tensor | None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        gradient, x, weight = ctx.saved_tensors
        geometry, (of_gradient, of_x, of_weight, *_) = ctx.geometry, ctx.needs_input_grad
        in_gradient = in_x = in_weight = None
        if of_gradient:
            parts = [_FORWARD(u_x, weight, None, *geometry)] if u_x is not None else []
            if u_weight is not None:
                parts.append(_FORWARD(x, u_weight, u_bias, *geometry))
            elif u_bias is not None:
                parts.append(u_bias.view(-1, *[1] * (gradient.ndim - 2)).expand_as(gradient))
            in_gradient = sum(parts[1:], parts[0]) if parts else None
        if of_x and u_weight is not None:
            in_x = _pull(gradient, x, u_weight, geometry, (True, False, False))[0]
        if of_weight and u_x is not None:
            in_weight = _pull(gradient, u_x, weight, geometry, (False, True, False))[1]
        return in_gradient, in_x, in_weight, None, None


def _pull(gradient: Tensor, x: Tensor, weight: Tensor, geometry: Any, mask: Any) -> Any:
    transposed, groups = geometry[3], geometry[5]
    channels = weight.shape[1] * groups if transposed else weight.shape[0]
    return _BACKWARD(gradient, x, weight, [channels] if mask[2] else None, *geometry, list(mask))


def _plain(tensor: Any, like: Any) -> bool:
    return (
        isinstance(tensor, Tensor)
        and tensor.is_floating_point()
        and tensor.layout == torch.strided
        and tensor.dtype == like.dtype
    )


def _arguments(func: Any, args: Any, kwargs: Any) -> Any:
    """Arguments of `_Convolution`; None where PyTorch's own function does more than `aten.convolution`."""
    dims, names = _CALLS[func]
    given = {**_DEFAULTS, **dict(zip(names, args, strict=False)), **kwargs}
    x, weight, bias = given["input"], given["weight"], given["bias"]
    tensors = [x, weight] if bias is None else [x, weight, bias]
    if not all(_plain(t, weight) for t in tensors) or x.ndim != dims + 2 or isinstance(given["padding"], str):
        return None
    if not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors)):
        return None
    stride, padding, dilation, output_padding = (
        [n] * dims if isinstance(n, int) else list(n) * (dims if len(n) == 1 else 1)
        for n in (given[name] for name in ("stride", "padding", "dilation", "output_padding"))
    )
    transposed = "output_padding" in names
    return x, weight, bias, (stride, padding, dilation, transposed, output_padding, given["groups"])


_DEFAULTS = {"bias": None, "stride": 1, "padding": 0, "dilation": 1, "output_padding": 0, "groups": 1}
_DIRECT = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
_CALLS: dict[Any, tuple[int, tuple[str, ...]]] = {
    torch.conv1d: (1, _DIRECT),
    torch.conv2d: (2, _DIRECT),
    torch.conv3d: (3, _DIRECT),
    torch.conv_transpose1d: (1, _TRANSPOSED),
    torch.conv_transpose2d: (2, _TRANSPOSED),
    torch.conv_transpose3d: (3, _TRANSPOSED),
}
