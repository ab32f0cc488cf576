"""What a tangent kernel takes in memory, and the blocks that keep it within a budget."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from torchstone import batches
from torchstone.batches import Batch
from torchstone.errors import MemoryBudgetError
from torchstone.operators.tangent_kernel.linearised import Linearised

_TILE_ROWS = 2048  # rows of a tile past which matrix products become no faster
_SMALL = 2**14  # of scalars, signs, scales and the like
_BLOCKS = tuple(2**power for power in range(10, -1, -1))


@dataclass(frozen=True)
class KernelPlan:
    """How a tangent kernel is computed, and what memory that takes beside the network and its data.

    Attributes:
        block: Examples that are linearised at once.
        kept: Whether every block's factors are kept until all its products are made, instead of being made again.
        passes: Blocks that are linearised, forward and backward, where a single process does it all.
        result_bytes: Memory of the kernel itself.
        peak_bytes: Most memory at any time, the kernel included.
        least_bytes: The smallest budget that would do.
    """

    block: int
    kept: bool
    passes: int
    result_bytes: int
    peak_bytes: int
    least_bytes: int


@dataclass(frozen=True)
class _Needs:
    """Bytes: once, an example's graph, an example's factors, and of a tile."""

    left: int
    right: int
    same: bool
    fixed: int
    graph: int
    factors: int
    linearised: Linearised
    itemsize: int

    def peak(self, block: int, kept: bool) -> int:
        """Most memory with blocks of that size."""
        rows, columns = min(block, self.left), min(block, self.right)
        held = self.right + (0 if self.same else rows) if kept else rows + columns
        tiles = [sizes.tile_numbers(rows, columns) for sizes in self.linearised.sizes.values()]
        k = 1 if self.linearised.summed else self.linearised.columns
        total = 2 * 8 * rows * columns * k * k  # in float64, and a copy on the way to the result
        tile = max(tiles, default=0) * self.itemsize + total
        return self.fixed + max(rows, columns) * self.graph + held * self.factors + tile

    def passes(self, block: int, kept: bool) -> int:
        """Blocks linearised."""
        left, right = math.ceil(self.left / block), math.ceil(self.right / block)
        if kept:
            return right if self.same else left + right
        return left * (left + 1) // 2 + left - 1 if self.same else left + left * right


def plan_blocks(
    linearised: Linearised,
    batch: Batch,
    left: int,
    right: int | None,
    copies: int,
    memory_bytes: int,
) -> KernelPlan:
    """The plan of least work within a budget.

    Cost: a forward pass and two backward passes over the probe.

    Args:
        linearised: The network; what it learns of the parameters' sizes here it keeps.
        batch: One or two examples, to be measured.
        left: Number of examples.
        right: Number of other examples; None for the same ones.
        copies: Kernels that are held: 1, and one more a parameter where those are wanted.
        memory_bytes: The budget.

    Raises:
        MemoryBudgetError: Not even one example at a time fits; says what would do.
    """
    needs, result = _measure(linearised, batch, left, right, copies)
    least = needs.peak(1, False)
    if least > memory_bytes:
        raise MemoryBudgetError(
            f"memory_bytes must be at least {least:,} for this kernel, of which {result:,} are the kernel itself",
            f"{memory_bytes:,}",
            'Raise it, take fewer examples, or ask for outputs="trace" instead of "all".',
        )
    most = max(1, _TILE_ROWS // max(1, 1 if linearised.summed else linearised.columns))
    fitting = [
        (needs.passes(block, kept) * (block + 4), -block, not kept)
        for block in _BLOCKS
        for kept in (True, False)
        if (block <= most or block == 1) and needs.peak(block, kept) <= memory_bytes
    ]
    _, block, not_kept = min(fitting)
    everyone = math.ceil(left / linearised.specimen.processes.count)  # a row of blocks for each process
    block = min(-block, max(left, needs.right), everyone)
    kept = not not_kept
    return KernelPlan(block, kept, needs.passes(block, kept), result, needs.peak(block, kept), least)


def _measure(
    linearised: Linearised, batch: Batch, left: int, right: int | None, copies: int
) -> tuple[_Needs, int]:
    specimen = linearised.specimen
    count = specimen.objective.size(batch)
    state = [*specimen.model.parameters(), *specimen.model.buffers()]
    saved = _Saved(state)
    with torch.autograd.graph.saved_tensors_hooks(saved.see, lambda tensor: tensor):
        outputs = linearised.forward(batch)
    widest = linearised.dtype.itemsize
    del outputs
    block = linearised.block(batch)
    del block
    sizes = linearised.sizes.values()
    numbers = sum(one.numbers for one in sizes)
    passing = max((one.passing for one in sizes), default=0)
    signals = sum(one.groups * max(1, one.positions) * one.signal or one.numel for one in sizes)
    patches = sum(one.groups * one.positions * one.activation for one in sizes)
    k = 1 if linearised.summed else linearised.columns
    m = left if right is None else right
    result = copies * left * k * m * k * widest
    inputs = sum(tensor.numel() * tensor.element_size() for tensor in batches.tensors(batch))
    # The forward pass holds a few tensors that it does not save; the backward pass a few gradients beside the signals.
    graph = 3 * math.ceil((saved.bytes + inputs) / count) + widest * (4 * signals + patches + passing)
    protection = sum(tensor.numel() * tensor.element_size() for tensor in state)
    largest = max((parameter.numel() for parameter in linearised.parameters.values()), default=0)
    needs = _Needs(
        left,
        m,
        right is None,
        result + protection + widest * largest + _SMALL,
        graph + widest * linearised.outputs * 4,
        widest * numbers,
        linearised,
        widest,
    )
    return needs, result


class _Saved:
    """Bytes that a graph saves beside the network's own tensors, each storage counted once."""

    def __init__(self, known: list[Tensor]) -> None:
        self._known = {tensor.untyped_storage().data_ptr() for tensor in known}
        self._sizes: dict[int, int] = {}

    def see(self, tensor: Tensor) -> Tensor:
        """The hook: counts and hands on."""
        if tensor.layout == torch.strided and tensor.untyped_storage().data_ptr() not in self._known:
            self._sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor.detach()

    @property
    def bytes(self) -> int:
        """Their sum."""
        return sum(self._sizes.values())
