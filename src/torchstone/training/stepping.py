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
from torchstone.training.presentation import Presentation

HALVES = (torch.bfloat16, torch.float16)


class Stepper:
    """Updates in one precision, on one process or a share of many.

    Args:
        presentation: Network, losses, penalty and ledger.
        optimizer: Over the network's parameters.
        ranks: The processes that share each batch.
        autocast: Type of the forward pass; None for the parameters' own. float16 scales the loss.

    Raises:
        SettingError: Another type.
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
        self._presentation, self._optimizer = presentation, optimizer
        self.notes = presentation.notes
        self._ranks, self._autocast = ranks, autocast
        self._scaled = autocast is torch.float16
        self.scaler = torch.amp.GradScaler(_device(optimizer).type, enabled=self._scaled)

    def step(self, x: Tensor, y: Tensor, rows: Tensor, number: int) -> tuple[float, Tensor, Tensor | None]:
        """One update on a batch's rows.

        Args:
            x: All inputs (N, ...).
            y: All targets.
            rows: The batch, (B,).
            number: Of the update, from 1, for messages.

        Returns:
            Sum of the batch's losses in float64, the rows of this process, and what was noted of them; None without a ledger.

        Raises:
            NumericalError: The loss is not finite.
        """
        self._optimizer.zero_grad()
        mine = self._ranks.share(rows)
        total, note, risk, failure = 0.0, None, None, None
        if len(mine):
            try:
                total, risk, note = self._forward(x, y, mine, len(rows))
            except Exception as error:
                if self._ranks.alone:
                    raise
                failure, total = error, math.nan
        total = self._ranks.summed(total)
        if failure is not None:
            raise failure
        if not math.isfinite(total):
            raise NumericalError(
                f"The loss must stay finite; it did not at step {number}",
                f"{total} over {len(rows)} examples"
                + ("" if self._ranks.alone else ", or another process failed"),
                "Lower the learning rate, clip the gradient, or look for NaN in the data.",
            )
        if risk is not None:
            (self.scaler.scale(risk) if self._scaled else risk).backward()
        self._ranks.sum_gradients(self._optimizer)
        if self._scaled:
            self.scaler.step(self._optimizer)
            self.scaler.update()
        else:
            self._optimizer.step()
        return total, mine, note if self.notes else None

    def _forward(self, x: Tensor, y: Tensor, mine: Tensor, count: int) -> tuple[float, Tensor, Tensor]:
        """Sum of the losses, this process's part of the batch's mean with the penalty, and the note."""
        batch = mine.to(x.device)
        with self._precision(x.device):
            values, penalty, note = self._presentation(x[batch], y[batch], len(mine))
        total = float(values.detach().sum(dtype=torch.float64))
        risk = values.mean() if len(mine) == count else values.sum() / count
        if penalty is not None:
            risk = risk + penalty * (len(mine) / count)
        return total, risk, note

    def _precision(self, device: torch.device) -> AbstractContextManager[Any]:
        if self._autocast is None:
            return nullcontext()
        return torch.autocast(device.type, self._autocast)


def _device(optimizer: Optimizer) -> torch.device:
    return next(p.device for group in optimizer.param_groups for p in group["params"])
