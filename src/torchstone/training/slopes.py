"""Gradients of many networks' mean losses, one batch each, in their stacked parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from torchstone.training.job import Job
from torchstone.training.member_data import MemberData
from torchstone.training.stack import Stack
from torchstone.training.ways import Present, Stacks


class Slopes(NamedTuple):
    """Losses (k, B) and notes (k, B) of a batch; a gradient for each trained parameter, None where the losses need it not."""

    losses: Tensor
    notes: Tensor
    gradients: Sequence[Tensor | None]


class SlopesOf:
    """A function of row numbers (k, B).

    Args:
        job: What is asked for.
        members: Which members, (k,).
        stack: Their parameters and buffers.
        present: How they are presented a batch.
    """

    def __init__(self, job: Job, members: Tensor, stack: Stack, present: Present) -> None:
        self.job, self.members, self.stack, self._present = job, members, stack, present

    def __call__(self, rows: Tensor) -> Slopes:
        """Of the stack as it stands; running statistics move."""
        return self.at(self.stack.parameters, self.stack.buffers, self.job.data, rows)

    def at(self, parameters: Stacks, buffers: Stacks, data: MemberData, rows: Tensor) -> Slopes:
        """The same as a function of tensors alone; the trained parameters among them are leaves."""
        x, y = data.batch(self.members, rows)
        values, penalty, note = self._present(parameters, buffers, x, y)
        # The slopes of the means in their examples, without a graph of the means.
        sums, weights = [values], [torch.full_like(values, 1 / values.shape[1])]
        if penalty.requires_grad:
            sums, weights = [*sums, penalty], [*weights, torch.ones_like(penalty)]
            if not values.requires_grad:
                sums, weights = sums[1:], weights[1:]
        leaves = [p for p in parameters.values() if p.requires_grad]
        return Slopes(values.detach(), note, torch.autograd.grad(sums, leaves, weights, allow_unused=True))
