"""Nothing that is measured may change: the state of a network and of the process, saved and restored bit for bit."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from torchstone.batches import same_bits

_REGISTRIES = ("_parameters", "_buffers", "_modules")
_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)
_guarded: WeakSet[nn.Module] = WeakSet()


@dataclass(frozen=True)
class _ModuleState:
    training: bool
    registries: dict[str, dict[str, Any]]
    hooks: dict[str, dict[Any, Any]]


@dataclass(frozen=True)
class _TensorState:
    data: Tensor
    values: Tensor
    grad: Tensor | None
    requires_grad: bool
    hooks: dict[int, Any]


@contextlib.contextmanager
def protect(model: nn.Module) -> Iterator[None]:
    """Restore a model and the process's random state on leaving, also when the block raises.

    Inside the block parameters have no gradient, so nothing accumulates onto the user's, and no hooks of theirs, which clip
    or mask gradients, so that what is differentiated is the loss. Restored bit for bit:
    parameters, buffers, gradients (the same tensors), `requires_grad`, train/eval mode of every submodule, hooks,
    submodule, parameter and buffer registries, and the random states of torch (CPU and CUDA), NumPy and Python.

    Memory: one copy of the parameters and buffers. A block inside another on the same model costs nothing.
    """
    if model in _guarded:
        yield
        return
    modules = {module: _module_state(module) for module in model.modules()}
    parameters = {parameter: _tensor_state(parameter) for parameter in model.parameters()}
    buffers = {buffer: _tensor_state(buffer) for buffer in model.buffers()}
    _guarded.add(model)
    try:
        with keeping_random_states():
            for parameter in parameters:
                parameter.grad = None
                _set_hooks(parameter, {})
            yield
    finally:
        _guarded.discard(model)
        for module, state in modules.items():
            _restore_module(module, state)
        for parameter, state in parameters.items():
            _restore_values(parameter, state)
            parameter.requires_grad_(state.requires_grad)
            parameter.grad = state.grad
            _set_hooks(parameter, state.hooks)
        for buffer, state in buffers.items():
            _restore_values(buffer, state)


def _module_state(module: nn.Module) -> _ModuleState:
    if isinstance(module, torch.jit.ScriptModule):  # its registries are fixed, and no dicts
        return _ModuleState(module.training, {}, {})
    return _ModuleState(
        module.training,
        {name: dict(getattr(module, name)) for name in _REGISTRIES},
        {name: dict(getattr(module, name)) for name in _HOOKS},
    )


def _restore_module(module: nn.Module, state: _ModuleState) -> None:
    if module.training != state.training:
        module.training = state.training
    for name, saved in (state.registries | state.hooks).items():
        current = getattr(module, name)
        if dict(current) != saved if name in _HOOKS else not _same_entries(current, saved):
            current.clear()
            current.update(saved)


def _same_entries(current: dict[str, Any], saved: dict[str, Any]) -> bool:
    return list(current) == list(saved) and all(current[key] is saved[key] for key in saved)


def _tensor_state(tensor: Tensor) -> _TensorState:
    grad = tensor.grad if tensor.is_leaf else None
    hooks = dict(tensor._backward_hooks or {})
    return _TensorState(tensor.data, tensor.detach().clone(), grad, tensor.requires_grad, hooks)


def _set_hooks(tensor: Tensor, hooks: dict[int, Any]) -> None:
    current = tensor._backward_hooks  # autograd calls what this very dictionary holds
    if current is not None:
        current.clear()
        current.update(hooks)


def _restore_values(tensor: Tensor, state: _TensorState) -> None:
    if not same_bits(state.data, state.values):
        state.data.copy_(
            state.values
        )  # does not count as a change for a graph of the user's that holds the tensor
    if not _same_memory(tensor, state.data):
        tensor.data = state.data  # moved, cast or given other storage, as by model.double()


def _same_memory(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors read the same numbers in the same places of one storage."""
    seen = [
        (one.data_ptr(), one.dtype, one.device, one.shape, one.stride(), one.is_conj(), one.is_neg())
        if one.layout == torch.strided
        else None
        for one in (first, second)
    ]
    return seen[0] is not None and seen[0] == seen[1]


@contextlib.contextmanager
def keeping_random_states() -> Iterator[None]:
    """Restore the global random states of torch (CPU and CUDA), NumPy and Python on leaving.

    Even reading a `DataLoader` needs it: each pass draws a seed from the global generator.
    """
    numpy = sys.modules.get("numpy")
    saved_numpy = numpy.random.get_state() if numpy is not None else None
    saved_python = random.getstate()
    try:
        with torch.random.fork_rng(devices=_cuda_devices()):
            yield
    finally:
        random.setstate(saved_python)
        if numpy is not None and saved_numpy is not None:
            numpy.random.set_state(saved_numpy)


def _cuda_devices() -> list[int]:
    return list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
