"""Several processes measure one specimen: each takes its share of the batches, sums and rows are put together."""

from __future__ import annotations

import atexit
import contextlib
import os
from collections.abc import Hashable, Iterable, Iterator
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from torchstone.errors import ProcessError, SettingError

Value = TypeVar("Value")
Sums = Tensor | tuple[Tensor, ...]
Group = (
    Literal["all"] | Any | None
)  # a torch.distributed.ProcessGroup, whose class is missing from some builds
_READY, _IDLE, _FAILED = 0, 1, 2


class Processes:
    """The processes among which a specimen's batches are shared; one process alone by default.

    Every process holds the same model and the same data and asks the same questions in the same order. Batch i belongs
    to process i mod P. A sum costs one all-reduce of its own size and one of a single number, which says whether all
    processes came that far: where one fails, all raise instead of waiting for it.

    Args:
        group: None for this process alone, "all" for every process of the job, or a process group.

    Raises:
        SettingError: No process group exists, or this process is not in it.
    """

    def __init__(self, group: Group = None) -> None:
        self.group: Any = None
        self.rank, self.count = 0, 1
        if group is None:
            return
        if not dist.is_available() or not dist.is_initialized():
            raise SettingError(
                "processes= needs a process group",
                "none initialised",
                "Call torch.distributed.init_process_group() under torchrun, or leave processes out.",
            )
        if isinstance(group, str) and group != "all":
            raise SettingError('processes must be "all", a process group or None', repr(group), 'Pass "all".')
        self.group = dist.group.WORLD if group == "all" else group
        try:
            self.rank, self.count = dist.get_rank(self.group), dist.get_world_size(self.group)
        except (TypeError, ValueError, RuntimeError, AttributeError):
            self.rank = -1
        if self.rank < 0:
            raise SettingError(
                "processes must be a group that this process belongs to", repr(group), 'Pass "all", or None.'
            )

    @property
    def alone(self) -> bool:
        """Whether there is nobody to share with."""
        return self.count == 1

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes files."""
        return self.rank == 0

    @property
    def _device(self) -> torch.device:
        """Where this group's messages must lie."""
        if str(dist.get_backend(self.group)) == "nccl":
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("cpu")

    def share(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Every P-th batch, beginning with this process's rank."""
        return (batch for index, batch in enumerate(batches) if index % self.count == self.rank)

    @contextlib.contextmanager
    def telling_failure(self) -> Iterator[None]:
        """Around the work before `summed`, `gathered` or `told`: if it raises here, those raise in the other processes."""
        try:
            yield
        except BaseException:
            if not self.alone:
                self._worst(_FAILED)
            raise

    def _worst(self, state: int) -> int:
        """The largest of all processes' states.

        Raises:
            ProcessError: Another process failed.
        """
        flag = torch.tensor([state], device=self._device)
        dist.all_reduce(flag, dist.ReduceOp.MAX, group=self.group)
        worst = int(flag)
        if worst == _FAILED and state != _FAILED:
            raise ProcessError(
                "All processes must measure their share", "an error in another one", "Look at its messages."
            )
        return worst

    def summed(self, parts: Sums | None) -> Sums:
        """Sums over the processes of a float64 tensor or a tuple of them; None from a process that had no batch.

        The result has the same bits in every process.
        """
        if self.alone:
            assert parts is not None  # splits are never empty
            return parts
        someone_idle = self._worst(_READY if parts is not None else _IDLE) == _IDLE
        if someone_idle:  # process 0 always has a batch, and tells what comes
            shapes = self.told(_shapes(parts) if parts is not None else None)
            parts = _zeros(shapes, self._device) if parts is None else parts
        assert parts is not None
        each = (parts,) if isinstance(parts, Tensor) else parts
        flat = torch.cat([part.reshape(-1) for part in each]).to(self._device)
        dist.all_reduce(flat, group=self.group)
        pieces = flat.to(each[0].device).split([part.numel() for part in each])
        found = tuple(piece.reshape(part.shape) for piece, part in zip(pieces, each, strict=True))
        return found[0] if isinstance(parts, Tensor) else found

    def of_each(self, value: Value) -> list[Value]:
        """What each process holds, in every process, by rank."""
        if self.alone:
            return [value]
        self._worst(_READY)
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value, group=self.group)
        return values

    def gathered(self, rows: list[Value]) -> list[Value]:
        """One thing a batch, in the data's order, in every process."""
        shares = self.of_each(rows)
        total = sum(map(len, shares))
        return [shares[index % self.count][index // self.count] for index in range(total)]

    def told(self, value: Any) -> Any:
        """What process 0 holds."""
        if self.alone:
            return value
        self._worst(_READY)
        message = [value]
        source = dist.get_global_rank(self.group, 0)
        dist.broadcast_object_list(message, source, group=self.group)
        return message[0]

    def require_same(self, what: str, here: Hashable) -> None:
        """Refuse processes that were given different things.

        Raises:
            ProcessError: In every process.
        """
        values = self.of_each(here)
        if others := [rank for rank, value in enumerate(values) if value != values[0]]:
            raise ProcessError(
                f"Every process must be given the same {what}",
                f"another one in process {', '.join(map(str, others))} than in process 0",
                "Load one checkpoint everywhere and pass the whole data, without a distributed sampler.",
            )


def join_job(device: str | None) -> tuple[Group, str | None]:
    """Join the other processes where `torchrun` started several.

    Args:
        device: Where to measure; "cuda" becomes this process's own one.

    Returns:
        "all" and the device, or None and the device where this process is alone.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or not dist.is_available():
        return None, device
    on_cuda = device is not None and device.startswith("cuda")
    if on_cuda:
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if on_cuda else "gloo")
        atexit.register(dist.destroy_process_group)
    return "all", device


def _shapes(parts: Sums) -> Any:
    return parts.shape if isinstance(parts, Tensor) else [part.shape for part in parts]


def _zeros(shapes: Any, device: torch.device) -> Sums:
    if isinstance(shapes, torch.Size):
        return torch.zeros(shapes, dtype=torch.float64, device=device)
    return tuple(torch.zeros(shape, dtype=torch.float64, device=device) for shape in shapes)
