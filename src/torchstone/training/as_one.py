"""Training some members at once: one network presented with stacked parameters."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from torchstone.training.chunks import Chunk
from torchstone.training.compiled import CompiledSlopes, compiled_or_not
from torchstone.training.ensemble import Ensemble
from torchstone.training.job import Job
from torchstone.training.member_steps import MemberSteps
from torchstone.training.optimizers import fuse, made_optimizer, scheduled, unfuse
from torchstone.training.order import EpochOrder, seeded_epoch
from torchstone.training.presentation import failure
from torchstone.training.slopes import SlopesOf
from torchstone.training.stack import Stack
from torchstone.training.ways import Way


def train_as_one(job: Job, members: Tensor, way: Way) -> Chunk:
    """Train members with equal numbers of rows and updates.

    Args:
        job: What is asked for.
        members: Which members, (k,).
        way: How they are presented a batch each.
    """
    stack = Stack.of([job.models[k] for k in members.tolist()])
    template = copy.deepcopy(job.models[0])
    ensemble = Ensemble(template, stack.parameters, stack.buffers)
    optimizer = fuse(made_optimizer(job.optimizer, stack.leaves))
    loop = _Loop(
        job,
        members,
        stack,
        SlopesOf(job, members, stack, way(job, template)),
        MemberSteps(optimizer, *(_of(values, members) for values in (job.lr_factors, job.weight_decay))),
        scheduled(job.scheduler, optimizer),
    )
    reason = loop.compile(template) if job.compiled else ""
    series: dict[str, list[Tensor]] = {}
    notes: list[Tensor] = []
    budget = job.budgets[int(members[0])]
    while loop.done < budget:
        loss, note = loop.epoch(template, budget)
        told = {"train_loss": loss}
        if job.on_epoch is not None:
            told |= job.on_epoch(len(notes) + 1, loop.done, members, loss, ensemble)
        for name, value in told.items():
            series.setdefault(name, []).append(value)
        notes.append(note)
        job.on_progress(len(members))
    stack.settle()
    return Chunk(
        members,
        ensemble,
        {name: torch.stack(values, dim=1) for name, values in series.items()},
        loop.diverged(),
        torch.stack(notes, dim=1) if job.ledger is not None else None,
        reason,
    )


class _Loop:
    """The steps of one chunk."""

    def __init__(
        self, job: Job, members: Tensor, stack: Stack, slopes: SlopesOf, steps: MemberSteps, scheduler: Any
    ) -> None:
        self.done = 0
        self._job, self._members, self._stack = job, members, stack
        self._slopes: SlopesOf | CompiledSlopes = slopes
        self._trained = [p for p in stack.leaves if p.requires_grad]
        self._steps, self._scheduler = steps, scheduler
        self._rows = torch.stack([job.data.rows[k] for k in members.tolist()])
        self._first_bad = torch.zeros(len(members), dtype=torch.long, device=job.device)

    def compile(self, template: nn.Module) -> str:
        """Compile the steps on whole batches; the reason where that can't be done."""
        assert isinstance(self._slopes, SlopesOf)
        with seeded_epoch(template, self._job.device, 0):
            whole = self._rows[:, : self._job.batch_size].contiguous()
            self._slopes, reason = compiled_or_not(self._slopes, whole)
        return reason

    def epoch(self, template: nn.Module, budget: int) -> tuple[Tensor, Tensor]:
        """One pass, or what the budget leaves of it: mean losses (k,) and notes (k, n)."""
        count = self._rows.shape[1]
        orders = [EpochOrder.draw(count, self._job.generators[k]) for k in self._members.tolist()]
        order = torch.stack([one.rows for one in orders])
        noted = torch.full(order.shape, torch.nan)
        size, found, before = self._job.batch_size, [], self.done
        batches = zip(order.split(size, dim=1), self._rows.gather(1, order).split(size, dim=1), strict=True)
        with seeded_epoch(template, self._job.device, orders[0].seed):
            for places, rows in itertools.islice(batches, budget - self.done):
                values, note = self._step(rows.contiguous())
                found.append(values)
                if self._job.ledger is not None:
                    noted.scatter_(1, places, note.float().cpu())
        losses = torch.cat(found, dim=1)
        steps = functional.pad(losses, (0, -losses.shape[1] % size)).unflatten(1, (-1, size))
        sums = steps.sum(2, dtype=torch.float64)
        self._mark(~sums.isfinite(), before)
        return (sums.sum(1) / losses.shape[1]).cpu(), noted

    def _step(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """One update of every member; the batch's losses and notes."""
        try:
            slopes = self._slopes(rows)
        except Exception as error:  # noqa: BLE001 - raised below in words
            told = failure(error, rows.shape[1], self.done + 1)
            raise told from told.__cause__
        if any(gradient is None for gradient in slopes.gradients):
            unfuse(self._steps.optimizer)
        for p, gradient in zip(self._trained, slopes.gradients, strict=True):
            # As p lies in memory, which fused kernels take for granted.
            p.grad = None if gradient is None else gradient.contiguous()
        self._steps.step()
        for p in self._trained:  # as zero_grad() does, which takes longer to get there
            p.grad = None
        self.done += 1
        if self._scheduler is not None:
            self._scheduler.step()
        return slopes.losses, slopes.notes

    def _mark(self, bad: Tensor, before: int) -> None:
        """Remember, without waiting for a GPU, the first step at which a member was not finite: bad is (k, steps)."""
        first = before + 1 + bad.long().argmax(1)
        self._first_bad = torch.where(bad.any(1) & (self._first_bad == 0), first, self._first_bad)

    def diverged(self) -> dict[int, int]:
        """Step by member; the weights after the last update have no loss after them, so they are looked at too."""
        finite = torch.stack(
            [p.detach().reshape(len(p), -1).isfinite().all(1) for p in self._stack.leaves]
        ).all(0)
        self._mark(~finite[:, None], self.done - 1)
        pairs = zip(self._members.tolist(), self._first_bad.tolist(), strict=True)
        return {k: step for k, step in pairs if step}


def _of(values: Tensor | None, members: Tensor) -> Tensor | None:
    return values[members] if values is not None else None
