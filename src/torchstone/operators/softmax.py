"""Softmax whose second derivative costs as few passes over it as it must."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from torchstone.operators.activations import require_last

_FORWARD = torch.ops.aten._softmax.default
_BACKWARD = torch.ops.aten._softmax_backward_data.default


def efficient_softmax(func: Any, args: Any, kwargs: Any, linear: bool) -> Tensor | None:
    r"""Softmax along one dimension, leaving a graph that is cheap to differentiate twice.

    The backward pass of y = softmax(x) is :math:`g_x = y (g - \langle g, y\rangle)`. Its derivative along a cotangent u is

    .. math::

        g: y (u - \langle u, y\rangle), \qquad
        y: u g - \langle u, y\rangle g - \langle g, y\rangle u,

    with PyTorch's fused kernel for the first and :math:`\langle g, y\rangle` kept in the graph: six passes where PyTorch's
    own formula takes ten.

    Args:
        func: What is called.
        args: Of the call.
        kwargs: Of the call.
        linear: The backward pass is differentiated in the gradient g alone.

    Returns:
        The output, PyTorch's bit by bit; None where the call is of another kind. It can be differentiated twice, not
        three times.
    """
    if func not in _CALLS:
        return None
    given = {**dict(zip(_CALLS[func], args, strict=False)), **kwargs}
    x, dim = given.get("input"), given.get("dim")
    if not isinstance(x, Tensor) or not isinstance(dim, int) or given.get("dtype") or "out" in given:
        return None
    plain = x.dtype in (torch.float32, torch.float64) and x.layout == torch.strided and x.numel() > 0
    fits = x.ndim > 0 and -x.ndim <= dim < x.ndim
    if not (plain and fits and x.requires_grad and torch.is_grad_enabled()):
        return None
    made: Any = _Softmax.apply(x, dim, linear)
    return made


class _Softmax(torch.autograd.Function):
    """y."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, linear: bool) -> Tensor:
        y = _FORWARD(x, dim, False)
        ctx.save_for_backward(y)
        ctx.dim, ctx.linear = dim, linear
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (y,) = ctx.saved_tensors
        if not torch.is_grad_enabled():
            return _BACKWARD(gradient, y, ctx.dim, y.dtype), None, None
        return _PullBack.apply(gradient, y.detach() if ctx.linear else y, ctx.dim), None, None


class _PullBack(torch.autograd.Function):
    """The gradient of x as a function of g and y."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, y: Tensor, dim: int) -> Tensor:
        mean = (gradient * y).sum(dim, keepdim=True) if ctx.needs_input_grad[1] else None
        ctx.save_for_backward(gradient, y, mean)
        ctx.dim = dim
        return _BACKWARD(gradient, y, dim, y.dtype)

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        require_last()
        gradient, y, mean = ctx.saved_tensors
        in_gradient = in_y = None
        if ctx.needs_input_grad[0]:
            in_gradient = _BACKWARD(u, y, ctx.dim, y.dtype)
        if mean is not None:
            in_y = (u * gradient).addcmul_((u * y).sum(ctx.dim, keepdim=True), gradient, value=-1)
            in_y.addcmul_(mean, u, value=-1)
        return in_gradient, in_y, None


_CALLS = {
    functional.softmax: ("input", "dim", "_stacklevel", "dtype"),
    torch.softmax: ("input", "dim", "dtype"),
    Tensor.softmax: ("input", "dim", "dtype"),
}
