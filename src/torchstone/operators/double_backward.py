"""Differentiating a network twice: kernels that allow it, and how to tell that one does not."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

# What PyTorch says where a backward formula has no derivative of its own: generated formulas, once_differentiable
# functions, and networks compiled by AOT autograd.
_REFUSALS = ("is not implemented", "differentiate twice", "double backward", "once_differentiable")


@contextlib.contextmanager
def twice_differentiable(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Inside, attention and recurrent layers run on kernels whose backward pass can be differentiated again.

    Fused attention (flash, memory-efficient, cuDNN, and the CPU's flash kernel) gives way to plain matrix products, and
    cuDNN's and oneDNN's recurrent kernels to single steps. The values are the same to rounding. Everything is
    switched back on leaving; convolutions keep their fast kernels unless the network is recurrent.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if any(isinstance(module, nn.RNNBase | nn.RNNCellBase) for module in model.modules()):
            stack.enter_context(_single_steps(device))
        yield


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
