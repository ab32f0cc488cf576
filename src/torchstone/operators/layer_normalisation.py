"""Layer normalisation whose second derivative costs as few passes over the activations as it must."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from torchstone.operators.activations import require_last

_FORWARD = torch.ops.aten.native_layer_norm.default
_BACKWARD = torch.ops.aten.native_layer_norm_backward.default


def efficient_layer_norm(func: Any, args: Any, kwargs: Any, linear: bool) -> Tensor | None:
    r"""Layer normalisation, leaving a graph that is cheap to differentiate twice.

    Of an example with n numbers, :math:`\hat x = (x - \bar x) s`, :math:`s = 1/\sqrt{\mathrm{var}(x) + \epsilon}`, and
    :math:`P v = s (v - \bar v - \hat x\, \overline{v \hat x})`, which is symmetric and the derivative of :math:`\hat x`.
    The output is :math:`w \hat x + b` and its backward pass :math:`g_x = P (w g), g_w = \sum g \hat x, g_b = \sum g`. The
    derivative of that along cotangents :math:`u_x, u_w, u_b` is

    .. math::

        g&: w\, P u_x + u_w \hat x + u_b, \qquad w: \sum g\, P u_x,

        x&: P (u_w g) - s\, \overline{w g \hat x}\, P u_x - s\, \overline{u_x \hat x}\, g_x
            - \tfrac sn \langle u_x, g_x\rangle\, \hat x,

    with PyTorch's fused kernel for P: eleven passes where its own formula takes forty.

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
    given = {**dict(zip(_NAMES, args, strict=False)), **kwargs}
    x, weight, bias, eps = given["input"], given.get("weight"), given.get("bias"), given.get("eps", 1e-5)
    shape = tuple(given["normalized_shape"])
    parts = [t for t in (x, weight, bias) if t is not None]
    if not (torch.is_grad_enabled() and any(t.requires_grad for t in parts)):
        return None
    plain = x.dtype in (torch.float32, torch.float64) and x.layout == torch.strided and x.numel() > 0
    fits = len(shape) > 0 and x.shape[-len(shape) :] == shape
    if not (plain and fits) or any(t.dtype != x.dtype or t.shape != shape for t in parts[1:]):
        return None
    made: Any = _LayerNorm.apply(x, weight, bias, shape, eps, linear)
    return made


def plain_layer_norm(func: Any, args: Any, kwargs: Any) -> Tensor | None:
    """Layer normalisation by elementary operations; None where the call is of another kind.

    PyTorch's kernel has a second derivative, which takes the mean and the scale for constants: the third, that of a network
    which is itself a gradient, would be wrong.
    """
    if func not in _CALLS:
        return None
    given = {**dict(zip(_NAMES, args, strict=False)), **kwargs}
    x, weight, bias, eps = given["input"], given.get("weight"), given.get("bias"), given.get("eps", 1e-5)
    wide = x if x.dtype == torch.float64 else x.float()
    centred = wide - wide.mean(ends := _ends(given["normalized_shape"]), keepdim=True)
    unit = centred * (centred.square().mean(ends, keepdim=True) + eps).rsqrt()
    out = unit if weight is None else unit * weight
    return (out if bias is None else out + bias).to(x.dtype)


class _LayerNorm(torch.autograd.Function):
    """The output."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, shape: Any, eps: float, linear: bool
    ) -> Tensor:
        out, mean, scale = _FORWARD(x, shape, weight, bias, eps)
        ctx.save_for_backward(x, weight, bias, mean, scale)
        ctx.shape, ctx.linear = shape, linear
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, bias, mean, scale = ctx.saved_tensors
        mask = ctx.needs_input_grad[:3]
        if not torch.is_grad_enabled():
            found = _BACKWARD(gradient, x, ctx.shape, mean, scale, weight, bias, list(mask))
            return *found, None, None, None
        if ctx.linear:
            x, weight = x.detach(), None if weight is None else weight.detach()
        return *_PullBack.apply(gradient, x, weight, bias, mean, scale, ctx.shape, mask), None, None, None


class _PullBack(torch.autograd.Function):
    """The gradients of x, w and b."""

    @staticmethod
    def forward(
        ctx: Any,
        gradient: Tensor,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        scale: Tensor,
        shape: Any,
        mask: Any,
    ) -> Any:
        found = _BACKWARD(gradient, x, shape, mean, scale, weight, bias, list(mask))
        pulled = mixed = None
        if ctx.needs_input_grad[1]:
            unit, pulled = (x - mean).mul_(scale), found[0]
            mixed = unit.mul_(gradient if weight is None else gradient * weight).mean(
                _ends(shape), keepdim=True
            )
        ctx.save_for_backward(gradient, x, weight, mean, scale, pulled, mixed)
        ctx.set_materialize_grads(False)
        ctx.shape = shape
        return found

    @staticmethod
    def backward(ctx: Any, u_x: Tensor | None, u_weight: Tensor | None, u_bias: Tensor | None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        require_last()
        gradient, x, weight, mean, scale, pulled, mixed = ctx.saved_tensors
        of_gradient, of_x, of_weight, *_ = ctx.needs_input_grad
        unit, ends = (x - mean).mul_(scale), _ends(ctx.shape)
        project = lambda v, w: _BACKWARD(v, x, ctx.shape, mean, scale, w, None, [True, False, False])[0]
        along = project(u_x, None) if u_x is not None else None
        in_gradient = in_x = in_weight = None
        if of_gradient:
            in_gradient = _affine(unit, u_weight, u_bias)
            if along is not None:
                along_w = along if weight is None else along * weight
                in_gradient = along_w if in_gradient is None else in_gradient.add_(along_w)
        if of_weight and along is not None:
            in_weight = (gradient * along).reshape(-1, *ctx.shape).sum(0)
        if of_x:
            in_x = project(gradient, u_weight) if u_weight is not None else None
            if u_x is not None:
                assert along is not None
                rows = (
                    (mixed, along),
                    ((u_x * unit).mean(ends, keepdim=True), pulled),
                    ((u_x * pulled).mean(ends, keepdim=True), unit),
                )
                for row, vector in rows:
                    row = row * -scale
                    in_x = row * vector if in_x is None else in_x.addcmul_(row, vector)
        return in_gradient, in_x, in_weight, *(None,) * 5


def _ends(shape: Any) -> tuple[int, ...]:
    return tuple(range(-len(shape), 0))


def _affine(unit: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor | None:
    if weight is None:
        return None if bias is None else bias.expand_as(unit).clone()
    return unit * weight if bias is None else torch.addcmul(bias, unit, weight)


_NAMES = ("input", "normalized_shape", "weight", "bias", "eps")
_CALLS = {functional.layer_norm, torch.layer_norm}
