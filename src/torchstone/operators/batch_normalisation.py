"""Batch normalisation by fixed statistics, whose second derivative costs as few passes over the activations as it must."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_FORWARD = torch.ops.aten.native_batch_norm.default
_BACKWARD = torch.ops.aten.native_batch_norm_backward.default


def efficient_batch_norm(func: Any, args: Any, kwargs: Any, linear: bool) -> Tensor | None:
    r"""Batch normalisation by running statistics, leaving a graph that is cheap to differentiate twice.

    With :math:`\hat x = (x - \mu) s`, :math:`s = 1/\sqrt{\sigma^2 + \epsilon}`, the output is :math:`w \hat x + b` and its
    backward pass :math:`g_x = w s g, g_w = \sum g \hat x, g_b = \sum g`. The derivative of that along cotangents
    :math:`u_x, u_w, u_b` is

    .. math:: g: w s u_x + u_w \hat x + u_b, \qquad x: s u_w g, \qquad w: \sum s g u_x,

    the first two terms of which are a normalisation of x with other weights, the last two a backward pass at
    :math:`u_x`: three fused passes where PyTorch's own formula takes nine.

    Args:
        func: What is called.
        args: Of the call.
        kwargs: Of the call.
        linear: The backward pass is differentiated in the gradient g alone.

    Returns:
        The output, PyTorch's bit by bit on the CPU (cuDNN, which is passed by, may round otherwise); None where the call is
        of another kind.
    """
    if func not in _CALLS:
        return None
    given = {**dict(zip(_CALLS[func], args, strict=False)), **kwargs}
    x, weight, bias = given["input"], given.get("weight"), given.get("bias")
    statistics, eps = (given["running_mean"], given["running_var"]), given.get("eps", 1e-5)
    if given.get("training") or any(t is None or t.requires_grad for t in statistics) or eps < 0:
        return None
    affine = [t for t in (weight, bias) if t is not None]
    if not (torch.is_grad_enabled() and any(t.requires_grad for t in (x, *affine))):
        return None
    plain = x.is_floating_point() and x.layout == torch.strided and x.ndim >= 2 and x.numel() > 0
    # Of one example in channels_last the fused kernels under vmap take the wrong layout, and the product is wrong.
    plain = plain and x.shape[0] > 1
    if not plain or any(t.dtype != x.dtype or t.shape != x.shape[1:2] for t in (*statistics, *affine)):
        return None
    found: Any = _BatchNorm.apply(x, weight, bias, *statistics, eps, linear)
    return found


class _BatchNorm(torch.autograd.Function):
    """The output."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        variance: Tensor,
        eps: float,
        linear: bool,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.eps, ctx.linear = eps, linear
        return _FORWARD(x, weight, bias, mean, variance, False, 0.0, eps)[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, mean, variance = ctx.saved_tensors
        mask = ctx.needs_input_grad[:3]
        if not torch.is_grad_enabled():
            return *_pull(gradient, x, weight, mean, variance, ctx.eps, mask), *(None,) * 4
        if ctx.linear:
            x, weight = x.detach(), None if weight is None else weight.detach()
        return *_PullBack.apply(gradient, x, weight, mean, variance, ctx.eps, mask), *(None,) * 4


class _PullBack(torch.autograd.Function):
    """The gradients of x, w and b, and their derivatives."""

    @staticmethod
    def forward(
        ctx: Any,
        gradient: Tensor,
        x: Tensor,
        weight: Tensor | None,
        mean: Tensor,
        variance: Tensor,
        eps: float,
        mask: Any,
    ) -> Any:
        ctx.save_for_backward(gradient, x, weight, mean, variance)
        ctx.set_materialize_grads(False)
        ctx.eps = eps
        return _pull(gradient, x, weight, mean, variance, eps, mask)

    @staticmethod
    def backward(ctx: Any, u_x: Tensor | None, u_weight: Tensor | None, u_bias: Tensor | None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        gradient, x, weight, mean, variance = ctx.saved_tensors
        of_gradient, of_x, of_weight, *_ = ctx.needs_input_grad
        shape = (1, -1, *[1] * (x.ndim - 2))
        scale = (variance + ctx.eps).rsqrt()
        in_gradient = in_x = in_weight = None
        if of_gradient:
            slope = (scale if weight is None else weight * scale).view(shape)
            if u_weight is not None:
                in_gradient = _FORWARD(x, u_weight, u_bias, mean, variance, False, 0.0, ctx.eps)[0]
            elif u_bias is not None:
                in_gradient = u_bias.view(shape).expand_as(x).clone()
            if u_x is not None:
                in_gradient = u_x * slope if in_gradient is None else in_gradient.addcmul_(u_x, slope)
        of_x, of_weight = of_x and u_weight is not None, of_weight and u_x is not None
        if of_weight:  # perhaps both
            at = (gradient, u_x, u_weight, torch.zeros_like(mean), variance, ctx.eps)
            in_x, in_weight, _ = _pull(*at, (of_x, True, False))
        elif of_x:
            assert u_weight is not None
            in_x = gradient * (u_weight * scale).view(shape)
        return in_gradient, in_x, in_weight, *(None,) * 4


def _pull(
    gradient: Tensor,
    x: Tensor | None,
    weight: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    eps: float,
    mask: Any,
) -> Any:
    return _BACKWARD(gradient, x, weight, mean, variance, None, None, False, eps, list(mask))


_CALLS = {
    functional.batch_norm: (
        *("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"),
    ),
    torch.batch_norm: (
        *("input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps"),
    ),
}
