r"""Steps of one optimiser on the stacked parameters of many networks, each with its own rate and weight decay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import (
    ASGD,
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    NAdam,
    Optimizer,
    RAdam,
    RMSprop,
    Rprop,
)

from torchstone.errors import SettingError
from torchstone.training.optimizers import OptimizerFactory, made_optimizer, take_step

# Each coordinate moves by its own history alone, so a stack of parameters moves as its parts would.
ELEMENTWISE = (SGD, Adam, AdamW, NAdam, RAdam, RMSprop, Adagrad, Adadelta, Adamax, ASGD, Rprop)
# Their step is the learning rate times a direction that does not depend on it.
LINEAR_IN_RATE = (SGD, Adam, AdamW, NAdam, RAdam, RMSprop, Adagrad, Adadelta, Adamax)


class MemberSteps:
    r"""An elementwise optimiser of stacked parameters (K, ...) whose members differ in rate and weight decay.

    An optimiser's step is :math:`-\eta_t d_t` with a direction that does not depend on the rate, so member k moves by
    :math:`f_k` times it. Weight decay :math:`\lambda_k` enters the gradient, or, where the optimiser decouples it,
    shrinks the weights by :math:`\eta_t f_k \lambda_k`.

    Args:
        optimizer: Over the stacked parameters.
        lr_factors: :math:`f_k`, (K,).
        weight_decay: :math:`\lambda_k`, (K,); the optimiser's own must be 0 then.

    Raises:
        SettingError: The optimiser has a weight decay of its own, or its step is not linear in the rate.
    """

    def __init__(
        self, optimizer: Optimizer, lr_factors: Tensor | None = None, weight_decay: Tensor | None = None
    ) -> None:
        self.optimizer, self._factors, self._decay = optimizer, lr_factors, weight_decay
        if lr_factors is not None and not isinstance(optimizer, LINEAR_IN_RATE):
            raise SettingError(
                "lr_factors need an optimizer whose step is proportional to its learning rate",
                type(optimizer).__name__,
                "Use SGD or Adam, or train the members apart.",
            )
        if weight_decay is not None and any(group.get("weight_decay", 0) for group in optimizer.param_groups):
            raise SettingError(
                "With weight_decay for each member the optimizer's own must be 0",
                f"{optimizer.param_groups[0]['weight_decay']}",
                "Leave it out of the optimizer; AdamW's default is 0.01.",
            )

        if weight_decay is not None:
            require_decay(optimizer)

    def step(self) -> None:
        """One update of every member from the gradients of the stacked parameters."""
        if self._factors is None and self._decay is None:
            take_step(self.optimizer)
            return
        moved = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        before = [p.detach().clone() for p in moved]
        groups = {id(p): group for group in self.optimizer.param_groups for p in group["params"]}
        rates = {place: float(group["lr"]) for place, group in groups.items()}
        if self._decay is not None and not self._decoupled:
            for p in moved:
                assert p.grad is not None
                sign = (
                    -1 if groups[id(p)].get("maximize") else 1
                )  # weights shrink even where the loss is to grow
                # A new tensor, because two may share one gradient.
                p.grad = p.grad.addcmul(p.detach(), _spread(self._decay, p), value=sign)
        take_step(self.optimizer)
        with torch.no_grad():
            for p, old in zip(moved, before, strict=True):
                if self._decay is not None and self._decoupled:
                    p.addcmul_(old, _spread(self._decay, p), value=-rates[id(p)])
                if self._factors is not None:
                    torch.lerp(old, p, _spread(self._factors, p), out=p)

    @property
    def _decoupled(self) -> bool:
        group = self.optimizer.param_groups[0]
        return isinstance(self.optimizer, AdamW) or bool(group.get("decoupled_weight_decay", False))


def for_one_member(
    factory: OptimizerFactory, lr_factor: float, weight_decay: float | None
) -> OptimizerFactory:
    """The same optimiser for one member trained alone: its factor of whatever rate is in force, its weight decay."""

    def make(parameters: Any) -> Optimizer:
        optimizer = made_optimizer(factory, parameters)
        if weight_decay is not None:
            require_decay(optimizer)
            for group in optimizer.param_groups:
                group["weight_decay"] = weight_decay
        if lr_factor != 1:  # during the step alone: a schedule may set rates without regard to the first
            rates: list[Any] = []

            def scale(*_: Any) -> None:
                rates[:] = [group["lr"] for group in optimizer.param_groups]
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * lr_factor

            def restore(*_: Any) -> None:
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate

            optimizer.register_step_pre_hook(scale)
            optimizer.register_step_post_hook(restore)
        return optimizer

    return make


def require_decay(optimizer: Optimizer) -> None:
    """Refuse optimisers without weight decay, of which the sign of a gradient alone may count.

    Raises:
        SettingError: Such a one.
    """
    if "weight_decay" not in optimizer.defaults:
        raise SettingError(
            "weight_decay for each member needs an optimizer that has weight decay",
            type(optimizer).__name__,
            "Use SGD or AdamW, or put the squared norm in a penalty.",
        )


def member_values(name: str, values: Sequence[float] | Tensor | None, count: int) -> Tensor | None:
    """One finite number at least 0 for each member.

    Raises:
        SettingError: Anything else.
    """
    if values is None:
        return None
    try:
        given = torch.as_tensor(values, dtype=torch.float64)
    except (TypeError, ValueError):
        given = torch.empty(0)
    if given.shape != (count,) or not bool((given.isfinite() & (given >= 0)).all()):
        raise SettingError(
            f"{name} needs one number at least 0 for each of {count} members",
            f"shape {tuple(given.shape)}: {given.flatten()[:3].tolist()}"
            if given.numel()
            else f"{values!r:.80}",
            "Pass a list of as many numbers as models.",
        )
    return given


def _spread(values: Tensor, like: Tensor) -> Tensor:
    return values.to(dtype=like.dtype, device=like.device).view(-1, *[1] * (like.ndim - 1))
