"""Training some members at once: one network mapped over stacked parameters."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torchstone.errors import TorchstoneError
from torchstone.training.chunks import Chunk
from torchstone.training.ensemble import Ensemble, together
from torchstone.training.job import Job
from torchstone.training.member_steps import ELEMENTWISE, MemberSteps
from torchstone.training.order import EpochOrder, seeded_epoch
from torchstone.training.presentation import Presentation


def why_not(job: Job) -> str | None:
    """The reason why these networks cannot be trained as one, or None; tries one step of two copies of member 0."""
    if not any(p.requires_grad for p in job.models[0].parameters()):
        return "the network has no trainable parameters"
    pair = _Stack.of([copy.deepcopy(job.models[0]), copy.deepcopy(job.models[0])])
    optimizer = job.optimizer(pair.leaves)
    if type(optimizer) not in ELEMENTWISE:
        return f"{type(optimizer).__name__} is not known to move every coordinate by itself"
    rows = job.data.rows[0][: job.batch_size].expand(2, -1)
    template = copy.deepcopy(job.models[0])
    presentation = Presentation(template, job.losses, job.penalty, job.ledger)
    try:
        with seeded_epoch(template, job.device, 0):
            x, y = job.data.batch(torch.tensor([0, 0]), rows)
            values, penalty, _ = together(presentation, rows.shape[1])(pair.parameters, pair.buffers, x, y)
            (values.mean() + penalty.sum()).backward()
    except TorchstoneError:
        raise  # the user's mistake, in words already
    except (RuntimeError, NotImplementedError, TypeError, ValueError, AttributeError) as error:
        return f"torch.func.vmap cannot map it: {str(error).splitlines()[0][:160] if str(error) else type(error).__name__}"
    return None


def train_vmapped(job: Job, members: Tensor) -> Chunk:
    """Train members with equal numbers of rows and updates.

    Args:
        job: What is asked for.
        members: Which members, (k,).
    """
    stack = _Stack.of([job.models[k] for k in members.tolist()])
    template = copy.deepcopy(job.models[0])
    ensemble = Ensemble(template, stack.parameters, stack.buffers)
    presentation = Presentation(template, job.losses, job.penalty, job.ledger)
    optimizer = job.optimizer(stack.leaves)
    loop = _Loop(
        job,
        members,
        stack,
        together,
        presentation,
        MemberSteps(optimizer, *(_of(values, members) for values in (job.lr_factors, job.weight_decay))),
        job.scheduler(optimizer) if job.scheduler is not None else None,
    )
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
    )


@dataclass(frozen=True)
class _Stack:
    """Stacked parameters, which are leaves of autograd where they are trained, and stacked buffers."""

    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]

    @classmethod
    def of(cls, models: Sequence[nn.Module]) -> _Stack:
        ensemble = Ensemble.of(models)
        trained = {name: p.requires_grad for name, p in models[0].named_parameters()}
        parameters = {name: p.requires_grad_(trained[name]) for name, p in ensemble.parameters.items()}
        return cls(parameters, dict(ensemble.buffers))

    @property
    def leaves(self) -> list[Tensor]:
        return list(self.parameters.values())

    def settle(self) -> None:
        """Plain tensors again."""
        for p in self.parameters.values():
            p.grad = None
            p.requires_grad_(False)


class _Loop:
    """The steps of one chunk."""

    def __init__(
        self,
        job: Job,
        members: Tensor,
        stack: _Stack,
        mapped: Any,
        presentation: Presentation,
        steps: MemberSteps,
        scheduler: Any,
    ) -> None:
        self.done = 0
        self._job, self._members, self._stack = job, members, stack
        self._presentation, self._mapped = presentation, mapped
        self._steps, self._scheduler = steps, scheduler
        self._rows = torch.stack([job.data.rows[k] for k in members.tolist()])
        self._first_bad = torch.zeros(len(members), dtype=torch.long, device=job.device)

    def epoch(self, template: nn.Module, budget: int) -> tuple[Tensor, Tensor]:
        """One pass, or what the budget leaves of it: mean losses (k,) and notes (k, n)."""
        count = self._rows.shape[1]
        orders = [EpochOrder.draw(count, self._job.generators[k]) for k in self._members.tolist()]
        order = torch.stack([one.rows for one in orders])
        total = torch.zeros(len(self._members), dtype=torch.float64, device=self._job.device)
        noted = torch.full(order.shape, torch.nan)
        seen = 0
        with seeded_epoch(template, self._job.device, orders[0].seed):
            for places in order.split(self._job.batch_size, dim=1)[: budget - self.done]:
                sums, note = self._step(self._rows.gather(1, places))
                total += sums
                seen += places.shape[1]
                if self._job.ledger is not None:
                    noted.scatter_(1, places, note.float().cpu())
        return (total / seen).cpu(), noted

    def _step(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """One update of every member; sums of the batch's losses and notes."""
        x, y = self._job.data.batch(self._members, rows)
        mapped = self._mapped(self._presentation, rows.shape[1])
        values, penalty, note = mapped(self._stack.parameters, self._stack.buffers, x, y)
        (values.mean(1) + penalty).sum().backward()
        self._steps.step()
        self._steps.optimizer.zero_grad()
        self.done += 1
        if self._scheduler is not None:
            self._scheduler.step()
        sums = values.detach().sum(1, dtype=torch.float64)
        self._mark(sums)
        return sums, note

    def _mark(self, sums: Tensor) -> None:
        """Remember, without waiting for a GPU, the first step at which a member's loss was not finite."""
        bad = ~sums.isfinite() & (self._first_bad == 0)
        self._first_bad = torch.where(bad, self.done, self._first_bad)

    def diverged(self) -> dict[int, int]:
        """Step by member; the weights after the last update have no loss after them, so they are looked at too."""
        finite = torch.stack(
            [p.detach().reshape(len(p), -1).isfinite().all(1) for p in self._stack.leaves]
        ).all(0)
        self._first_bad = torch.where(~finite & (self._first_bad == 0), self.done, self._first_bad)
        pairs = zip(self._members.tolist(), self._first_bad.tolist(), strict=True)
        return {k: step for k, step in pairs if step}


def _of(values: Tensor | None, members: Tensor) -> Tensor | None:
    return values[members] if values is not None else None
