"""Optimisers and schedules that users make: what is wrong with them is told in words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from torchstone.errors import SettingError, TorchstoneError

OptimizerFactory = Callable[[Any], Optimizer]
"""From parameters, or groups of them, to an optimiser."""
SchedulerFactory = Callable[[Optimizer], LRScheduler]


def made_optimizer(optimizer: Optimizer | OptimizerFactory, parameters: Any) -> Optimizer:
    """An optimiser as it is, or what a function makes of parameters.

    Raises:
        SettingError: Not a function, one that fails, or one that makes something else.
    """
    if isinstance(optimizer, Optimizer):
        return optimizer
    if not callable(optimizer):
        raise _no_factory(type(optimizer).__name__)
    try:
        made = optimizer(parameters)
    except (TorchstoneError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise _no_factory(f"{type(error).__name__}: {error}") from error
    if not isinstance(made, Optimizer):
        raise _no_factory(f"a function that makes {type(made).__name__}")
    return made


def take_step(optimizer: Optimizer) -> None:
    """`optimizer.step()`.

    Raises:
        SettingError: It cannot, for example because it takes sparse gradients only.
    """
    try:
        optimizer.step()
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, ValueError, AttributeError, KeyError) as error:
        raise SettingError(
            "The optimizer must be able to take a step of these parameters",
            f"{type(optimizer).__name__}, which says: {error}",
            "Use SGD or Adam, or call its step() by itself after a backward pass to see why it fails.",
        ) from error


def fuse(optimizer: Optimizer) -> Optimizer:
    """One kernel for the whole update, equal up to rounding, where PyTorch has one and the user chose no other."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    known = all(
        p.device.type in ("cpu", "cuda") and p.dtype in (torch.float32, torch.float64) for p in parameters
    )
    if type(optimizer) in (SGD, Adam, AdamW) and known:
        for group in optimizer.param_groups:
            chosen = any(group.get(name) is not None for name in ("foreach", "fused"))
            chosen = chosen or any(group.get(name) for name in ("capturable", "differentiable"))
            if not chosen and not isinstance(group["lr"], Tensor):
                group["fused"] = True
    return optimizer


def unfuse(optimizer: Optimizer) -> None:
    """Undo `fuse`: PyTorch's fused SGD fails where a parameter's first gradient comes later than others'."""
    if type(optimizer) is SGD:
        for group in optimizer.param_groups:
            group["fused"] = None


def scheduled(scheduler: LRScheduler | SchedulerFactory | None, optimizer: Optimizer) -> LRScheduler | None:
    """The schedule, made if need be.

    Raises:
        SettingError: A function that fails or makes something else, or a schedule that wants to be told a number at each
            step.
    """
    if scheduler is not None and not isinstance(scheduler, LRScheduler):
        if not callable(scheduler):
            raise _no_schedule(type(scheduler).__name__)
        try:
            scheduler = scheduler(optimizer)
        except Exception as error:
            raise _no_schedule(f"{type(error).__name__}: {error}") from error
        if not isinstance(scheduler, LRScheduler):
            raise _no_schedule(f"a function that makes {type(scheduler).__name__}")
    if isinstance(scheduler, ReduceLROnPlateau):
        raise SettingError(
            "scheduler must be a function of the number of updates",
            "ReduceLROnPlateau",
            "Step it in on_epoch with the number that it watches.",
        )
    return scheduler


def _no_factory(got: str) -> SettingError:
    return SettingError(
        "optimizer must be an optimiser, or a function of the parameters that makes one",
        got,
        "Pass lambda parameters: torch.optim.SGD(parameters, lr=0.1).",
    )


def _no_schedule(got: str) -> SettingError:
    return SettingError(
        "scheduler must be a schedule, or a function of the optimiser that makes one",
        got,
        "Pass lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=1000).",
    )
