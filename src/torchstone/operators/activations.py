"""Activations whose second derivative takes two passes over them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def efficient_activation(func: Any, args: Any, kwargs: Any, linear: bool) -> Tensor | None:
    r"""An elementwise function y = f(x), leaving a graph that is cheap to differentiate twice, again and again.

    The derivative of its backward pass :math:`g_x = f'(x) g` along a cotangent u is

    .. math:: g: f'(x) u, \qquad x: f''(x) g u.

    Both factors are arrays of the graph, made once with PyTorch's own formulas, which take about ten passes in each
    product otherwise.

    Args:
        func: What is called.
        args: Of the call.
        kwargs: Of the call.
        linear: The backward pass is differentiated in the gradient g alone.

    Returns:
        The output, PyTorch's bit by bit; None where the call is of another kind. It can be differentiated twice, not
        three times.
    """
    if func not in _CALLS or kwargs.get("inplace") or (func in _INPLACE_AT and len(args) > _INPLACE_AT[func]):
        return None
    x, *settings = args if args else (kwargs.get("input"),)
    plain = isinstance(x, Tensor) and x.dtype in (torch.float32, torch.float64) and x.layout == torch.strided
    if not plain or x.numel() == 0 or not x.requires_grad or not torch.is_grad_enabled() or "out" in kwargs:
        return None
    rest = {name: value for name, value in kwargs.items() if name != "input"}
    made: Any = _Elementwise.apply(x, lambda t: func(t, *settings, **rest), linear)
    return made


class _Elementwise(torch.autograd.Function):
    """f(x)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Callable[[Tensor], Tensor], linear: bool) -> Tensor:
        ctx.save_for_backward(x)
        ctx.function, ctx.linear, ctx.slope = function, linear, None
        return function(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (x,) = ctx.saved_tensors
        if torch.is_grad_enabled():
            x = x.detach() if ctx.linear else x
            pulled, ctx.slope = _PullBack.apply(gradient, x, ctx.function)
            return pulled, None, None
        if ctx.slope is not None:
            return gradient * ctx.slope, None, None
        leaf, value = _called(ctx.function, x)
        return *torch.autograd.grad(value, leaf, gradient), None, None


class _PullBack(torch.autograd.Function):
    """f'(x) g, and f'(x)."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, x: Tensor, function: Callable[[Tensor], Tensor]) -> Any:
        leaf, value = _called(function, x)
        bends = ctx.needs_input_grad[1]
        (pulled,) = torch.autograd.grad(value, leaf, gradient, retain_graph=True)
        (slope,) = torch.autograd.grad(value, leaf, torch.ones_like(value), create_graph=bends)
        bend = None
        if bends and slope.requires_grad:
            (bend,) = torch.autograd.grad(slope, leaf, gradient)
        slope = slope.detach()
        ctx.save_for_backward(slope, bend)
        ctx.mark_non_differentiable(slope)
        ctx.set_materialize_grads(False)
        return pulled, slope

    @staticmethod
    def backward(ctx: Any, u: Tensor | None, _: None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        require_last()
        slope, bend = ctx.saved_tensors
        of_gradient, of_x, _function = ctx.needs_input_grad
        if u is None:
            return None, None, None
        return u * slope if of_gradient else None, u * bend if of_x and bend is not None else None, None


def require_last() -> None:
    """Refuse to be differentiated a third time; PyTorch's `once_differentiable` lets it pass unseen in `autograd.grad`.

    Raises:
        RuntimeError: The second derivative is computed with create_graph=True.
    """
    if torch.is_grad_enabled():
        raise RuntimeError("this graph can be differentiated twice, not three times")


def _called(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """A leaf at x and f there, in PyTorch's own way."""
    with torch.enable_grad(), torch._C.DisableTorchFunction():
        leaf = x.detach().requires_grad_()
        return leaf, function(leaf)


_CALLS = {
    *(functional.gelu, functional.silu, functional.mish, functional.softplus, functional.logsigmoid),
    *(functional.elu, functional.selu, functional.celu, functional.softsign),
    *(functional.tanh, torch.tanh, Tensor.tanh),
    *(functional.sigmoid, torch.sigmoid, Tensor.sigmoid),
}
_INPLACE_AT = {
    functional.silu: 1,
    functional.mish: 1,
    functional.elu: 2,
    functional.selu: 1,
    functional.celu: 2,
}
