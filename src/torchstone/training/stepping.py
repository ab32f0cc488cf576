"""One update of a network: losses of a batch, the gradient, the optimiser's step; alone or shared by processes."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from torchstone.errors import NumericalError, SettingError
from torchstone.training.data_parallel import Ranks
from torchstone.training.optimizers import take_step
from torchstone.training.presentation import Presentation, failure

HALVES = (torch.bfloat16, torch.float16)


class Stepper:
    """Updates in one precision, on one process or a share of many.

    Args:
        presentation: Network, losses, penalty and ledger.
        optimizer: Over the network's parameters.
        ranks: The processes that share each batch.
        autocast: Type of the forward pass; None for the parameters' own. float16 scales the loss.

    Raises:
        SettingError: Another type, an optimiser that wants to call the loss itself, or nothing to train.
    """

    def __init__(
        self,
        presentation: Presentation,
        optimizer: Optimizer,
        ranks: Ranks,
        autocast: torch.dtype | None = None,
    ) -> None:
        if autocast is not None and autocast not in HALVES:
            raise SettingError(
                "autocast must be torch.bfloat16 or torch.float16, or None",
                str(autocast),
                "Use torch.bfloat16 where the device has it.",
            )
        if isinstance(optimizer, torch.optim.LBFGS):
            raise SettingError("The optimizer must step from one gradient", "LBFGS", "Use SGD or Adam.")
        if not any(p.requires_grad for group in optimizer.param_groups for p in group["params"]):
            raise SettingError(
                "The optimizer needs a parameter that requires a gradient",
                "all of them are frozen",
                "Call requires_grad_() on what is to be trained.",
            )
        self._presentation, self._optimizer = presentation, optimizer
        self.notes = presentation.notes
        self._ranks, self._autocast = ranks, autocast
        self._scaled = autocast is torch.float16
        self._slope: tuple[Any, Tensor] | None = None  # of the mean by each loss; the same for equal batches
        self.scaler = torch.amp.GradScaler(_device(optimizer).type, enabled=self._scaled)

    def step(self, x: Tensor, y: Tensor, count: int, number: int) -> tuple[float, Tensor | None]:
        """One update on a batch.

        Args:
            x: This process's inputs of the batch.
            y: Its targets.
            count: Examples of the whole batch.
            number: Of the update, from 1, for messages.

        Returns:
            Sum of the batch's losses in float64, and what was noted of this process's examples; None without a ledger.

        Raises:
            NumericalError: The loss is not finite.
        """
        self._forget_gradients()
        total, values, penalty, note, failed = 0.0, None, None, None, None
        if len(x):
            try:
                with self._precision(x.device):
                    values, penalty, note = self._presentation(x, y, len(x))
                total = values.detach().sum(dtype=torch.float64).item()
            except Exception as error:  # noqa: BLE001 - the other processes must hear of it before it is raised
                failed, total = failure(error, len(x), number), math.nan
        total = self._ranks.summed(total)
        if failed is not None:
            raise failed
        if not math.isfinite(total):
            raise NumericalError(
                f"The loss must stay finite; it did not at step {number}",
                f"{total} over {count} examples"
                + ("" if self._ranks.alone else ", or another process failed"),
                "Lower the learning rate, clip the gradient, or look for NaN in the data.",
            )
        if values is not None:
            self._backward(values, penalty, count)
        self._ranks.sum_gradients(self._optimizer)
        if self._scaled:
            self.scaler.step(self._optimizer)
            self.scaler.update()
        else:
            take_step(self._optimizer)
        return total, note if self.notes else None

    def _backward(self, values: Tensor, penalty: Tensor | None, count: int) -> None:
        """The gradient of this process's part of the batch's mean with the penalty."""
        if penalty is None and not self._scaled:
            # A node less than the mean's own, and the same numbers.
            shape = (len(values), count, values.dtype)
            if self._slope is None or self._slope[0] != shape:
                self._slope = shape, torch.full_like(values, 1 / count, requires_grad=False)
            values.backward(self._slope[1])
            return
        risk = values.mean() if len(values) == count else values.sum() / count
        if penalty is not None:
            risk = risk + penalty * (len(values) / count)
        (self.scaler.scale(risk) if self._scaled else risk).backward()

    def _forget_gradients(self) -> None:
        """What `zero_grad` does, without what it costs a small network; an optimiser's own is called."""
        if type(self._optimizer).zero_grad is not Optimizer.zero_grad:
            self._optimizer.zero_grad()
            return
        for group in self._optimizer.param_groups:
            for p in group["params"]:
                p.grad = None

    def _precision(self, device: torch.device) -> AbstractContextManager[Any]:
        if self._autocast is None:
            return nullcontext()
        return torch.autocast(device.type, self._autocast)


def _device(optimizer: Optimizer) -> torch.device:
    return next(p.device for group in optimizer.param_groups for p in group["params"])
