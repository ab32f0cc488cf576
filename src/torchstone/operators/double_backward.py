"""Differentiating a network twice: kernels that allow it, and how to tell that one does not."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

# What PyTorch says where a backward formula has no derivative of its own: generated formulas, once_differentiable
# functions, and networks compiled by AOT autograd.
_REFUSALS = ("is not implemented", "differentiate twice", "double backward", "once_differentiable")


@contextlib.contextmanager
def twice_differentiable(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Inside, attention, recurrent layers and weight normalisation can be differentiated twice.

    Fused attention (flash, memory-efficient, cuDNN, and the CPU's flash kernel) gives way to plain matrix products, and
    cuDNN's and oneDNN's recurrent kernels to single steps. The values are the same to rounding. Everything is
    switched back on leaving; convolutions keep their fast kernels unless the network is recurrent. Networks compiled by
    torch.compile, whose backward pass has no derivative, run as they were written.
    """
    with contextlib.ExitStack() as stack:
        if "torch._dynamo" in sys.modules:  # nothing is compiled otherwise, and the import is slow
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if any(isinstance(module, nn.RNNBase | nn.RNNCellBase) for module in model.modules()):
            stack.enter_context(_single_steps(device))
        if any(_normalises_weights(module) for module in model.modules()):
            stack.enter_context(_PlainWeightNorm())
        yield


class _PlainWeightNorm(TorchFunctionMode):
    """Weight normalisation by its formula: the fused kernel's second derivative takes the norms for constants."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch._weight_norm:  # pyright: ignore[reportPrivateImportUsage]
            v, g, dim = args
            return v * (g / torch.norm_except_dim(v, 2, dim))
        return func(*args, **(kwargs or {}))


def is_compiled(model: nn.Module) -> bool:
    """Whether torch.compile has been put around the network or any part of it."""
    if "torch._dynamo" not in sys.modules:
        return False
    return any(
        hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
        for module in model.modules()
    )


def _normalises_weights(module: nn.Module) -> bool:
    """Whether it is the parametrization, or carries the hook of the older way."""
    kinds = [type(module), *map(type, module._forward_pre_hooks.values())]
    return any(kind.__name__ in ("_WeightNorm", "WeightNorm") for kind in kinds)


def _single_steps(device: torch.device) -> contextlib.AbstractContextManager[None]:
    if device.type == "cuda":
        return torch.backends.cudnn.flags(
            enabled=False,
            benchmark=torch.backends.cudnn.benchmark,
            deterministic=torch.backends.cudnn.deterministic,
            allow_tf32=torch.backends.cudnn.allow_tf32,
        )
    return _without_onednn()


@contextlib.contextmanager
def _without_onednn() -> Iterator[None]:
    # mkldnn.flags() would also write the TF32 setting, which warns on machines that have none.
    enabled = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = False
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = enabled


def lacks_second_derivative(error: BaseException) -> bool:
    """Whether an error of `torch.autograd.grad` says that a backward formula cannot be differentiated."""
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _REFUSALS)
