"""Processes that train one network together: each takes a share of every batch, gradients are summed."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from torchstone.errors import ProcessError, SettingError

Group = Literal["all"] | dist.ProcessGroup | None


class Ranks:
    """The processes of a job, or this one alone.

    Every process draws the same batches from a generator in the same state and takes each world-size-th row of them. The
    gradient is that of the mean over the whole batch, summed in one all-reduce, so the training is that of one process up
    to rounding. Batch normalisation sees its process's share alone, as under DistributedDataParallel; its running
    statistics are averaged after each epoch.

    Args:
        group: "all" for the default group, a group, or None for this process alone.

    Raises:
        SettingError: "all" without an initialised process group.
    """

    def __init__(self, group: Group) -> None:
        if group is not None and not (dist.is_available() and dist.is_initialized()):
            raise SettingError(
                'processes="all" needs an initialised process group',
                "none",
                "Start with torchrun and call torch.distributed.init_process_group first.",
            )
        self._group: Any = dist.group.WORLD if group == "all" else group
        self.alone = self._group is None or dist.get_world_size(self._group) == 1
        self._rank = 0 if self.alone else dist.get_rank(self._group)
        self._count = 1 if self.alone else dist.get_world_size(self._group)

    @property
    def first(self) -> bool:
        """Whether this process writes files and draws progress."""
        return self._rank == 0

    def share(self, rows: Tensor) -> Tensor:
        """This process's rows of a batch."""
        return rows if self.alone else rows[self._rank :: self._count]

    def seed(self, seed: int) -> int:
        """A seed for dropout that differs between processes."""
        return (seed + self._rank) % 2**62

    def summed(self, value: float) -> float:
        """The sum over all processes."""
        if self.alone:
            return value
        whole = torch.tensor([value], dtype=torch.float64)
        self._reduce(whole)
        return float(whole)

    def sum_gradients(self, optimizer: Optimizer) -> None:
        """Replace every gradient by its sum over processes, in one all-reduce a type."""
        if self.alone:
            return
        trained = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        for p in trained:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        for dtype in sorted({p.dtype for p in trained}, key=str):
            gradients = [p.grad for p in trained if p.dtype == dtype and p.grad is not None]
            flat = torch.cat([g.flatten() for g in gradients])
            self._reduce(flat)
            for g, summed in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
                g.copy_(summed.view_as(g))

    def average_buffers(self, model: nn.Module) -> None:
        """Replace floating buffers, such as running statistics, by their mean over processes."""
        if self.alone:
            return
        for buffer in model.buffers():
            if buffer.is_floating_point():
                self._reduce(buffer)
                buffer.div_(self._count)

    def gathered(self, noted: Tensor) -> Tensor:
        """Notes (N,) of all processes, each of which filled other rows; NaN where none did."""
        if self.alone:
            return noted
        values, known = noted.nan_to_num(), (~noted.isnan()).to(noted.dtype)
        self._reduce(values)
        self._reduce(known)
        return values.where(known > 0, torch.nan)

    def check_equal(self, what: str, fingerprint: str) -> None:
        """All processes must start from the same.

        Raises:
            ProcessError: In every process, where they do not.
        """
        if self.alone:
            return
        found: list[Any] = [None] * self._count
        dist.all_gather_object(found, fingerprint, group=self._group)
        if len(set(found)) > 1:
            raise ProcessError(
                f"All processes must start from the same {what}",
                f"{len(set(found))} different ones in {self._count} processes",
                "Seed every process alike, and load the same data in the same order.",
            )

    def _reduce(self, tensor: Tensor) -> None:
        # NCCL reduces on the GPU only, gloo anywhere.
        if dist.get_backend(self._group) == "nccl" and not tensor.is_cuda:
            there = tensor.cuda()
            dist.all_reduce(there, group=self._group)
            tensor.copy_(there)
        else:
            dist.all_reduce(tensor, group=self._group)
