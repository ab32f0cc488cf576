"""The empirical neural tangent kernel of a network, without its Jacobian."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torchstone.batches import Batch
from torchstone.errors import SettingError
from torchstone.operators.double_backward import twice_differentiable
from torchstone.operators.parameter_space import ParameterSpace
from torchstone.operators.tangent_kernel import (
    Block,
    Examples,
    KernelPlan,
    Linearised,
    examples_of,
    plan_blocks,
)
from torchstone.specimen import Specimen

Which = Literal["all", "trace"] | int
KERNEL_BYTES = 2**30


@dataclass(frozen=True)
class TangentKernel:
    """A tangent kernel.

    Attributes:
        values: (N, M, C, C) with all outputs, (N, M) with one or their sum; of the network's type, at least float32.
        by_parameter: Each parameter's share, of the same shape, where asked for; shares add up to `values`.
        formed: Parameters whose Jacobian had to be formed, with the reason.
        plan: How it was computed.
    """

    values: Tensor
    by_parameter: dict[str, Tensor] = field(default_factory=dict)
    formed: dict[str, str] = field(default_factory=dict)
    plan: KernelPlan | None = None

    @property
    def matrix(self) -> Float[Tensor, "left right"]:
        """The kernel as a matrix: (N C, M C) with the outputs of an example side by side, or (N, M)."""
        return as_matrix(self.values)

    def by_layer(self) -> dict[str, Tensor]:
        """Shares of layers: those of the parameters of one module together, in the model's order."""
        found: dict[str, Tensor] = {}
        for name, share in self.by_parameter.items():
            layer = name.rpartition(".")[0] or name
            found[layer] = found[layer] + share if layer in found else share
        return found


def as_matrix(values: Tensor) -> Tensor:
    """(N, M, C, C') as (N C, M C'); a matrix as it is."""
    if values.ndim == 2:
        return values
    n, m, c, d = values.shape
    return values.transpose(1, 2).reshape(n * c, m * d)


def ntk(
    network: nn.Module | Specimen,
    x1: Any = None,
    x2: Any = None,
    *,
    outputs: Which = "all",
    directions: Tensor | None = None,
    names: Iterable[str] | None = None,
    per_layer: bool = False,
    memory_bytes: int = KERNEL_BYTES,
) -> TangentKernel:
    r"""Theta[n, m, c, c'] = <df_c(x_n)/dtheta, df_c'(x_m)/dtheta>, at the network's present parameters.

    A dense layer's share is the Gram matrix of its inputs (plus 1 for its bias) times that of the signals back-propagated
    to its output; convolutions are dense layers on patches; sequences sum over positions; embeddings, normalisation in
    evaluation mode, biases, scales, attention and several calls of one layer have their own rules. Parameters without
    a rule have their Jacobian formed, alone, and are named in `formed`.

    Cost: one forward pass and C + 2 backward passes down to the first layer's output (1 + 2 for one output), and per
    layer about N M (C^2 a + b) multiplications for signals of length a and inputs of length b.
    Memory: never more than `memory_bytes` of tensors, beside the network and its data; see `ntk_plan`. The C library may
    hold on to freed memory on top of that. Processes that share a specimen share the work, and each gets the whole kernel.
    Accuracy: products in the network's type (half precision widened to float32), layers added in float64. No bias.

    Args:
        network: A module, which is put into evaluation mode, or a specimen.
        x1: Inputs of the module: a tensor (N, ...), a tuple of arguments or a mapping. Of a specimen: the name of a
            split, or a pair of a name and increasing indices; by default "train".
        x2: Other inputs of the same kind, for a cross-kernel; None for those of `x1`.
        outputs: "all"; "trace" for the sum over outputs, sum_c Theta[n, m, c, c]; or the index of one output.
        directions: Combinations of outputs (K, C), which take the place of the outputs. With signs +-1 / sqrt(K) drawn at
            random, "trace" is an unbiased estimate of that of all outputs.
        names: Only these parameters; None for all that require a gradient. Frozen ones never count.
        per_layer: Whether to keep each parameter's share; each takes as much memory as the kernel.
        memory_bytes: Budget.

    Raises:
        MemoryBudgetError: Too small a budget, with the number that would do.
        SpecimenError: No trainable parameter, examples that influence each other, or another number of outputs.
        SettingError: Wrong `x1`, `x2`, `outputs`, `directions` or `names`.

    Example:
        >>> layer = nn.Linear(2, 3, bias=False, dtype=torch.float64)
        >>> x = torch.tensor([[1.0, 2.0], [0.0, 1.0]], dtype=torch.float64)
        >>> ntk(layer, x, outputs="trace").values.tolist()  # three times x x^T
        [[15.0, 6.0], [6.0, 3.0]]

    Source: Jacot, Gabriel & Hongler 2018, section 4; Novak, Sohl-Dickstein & Schoenholz 2022, section 3 (structure).
    """
    work = _Work.of(network, x1, x2, outputs, directions, names, per_layer)
    with work.ready():
        plan = work.plan(per_layer, memory_bytes)
        return work.run(plan, per_layer)


def ntk_plan(
    network: nn.Module | Specimen,
    x1: Any = None,
    x2: Any = None,
    *,
    outputs: Which = "all",
    directions: Tensor | None = None,
    names: Iterable[str] | None = None,
    per_layer: bool = False,
    memory_bytes: int = KERNEL_BYTES,
) -> KernelPlan:
    """What `ntk` with the same arguments would take: blocks, passes and memory.

    Accuracy: these are the numbers that `ntk` goes by.

    Cost: a forward pass and C + 2 backward passes over two examples.

    Raises:
        MemoryBudgetError: As `ntk` would.
    """
    work = _Work.of(network, x1, x2, outputs, directions, names, per_layer)
    with work.ready():
        return work.plan(per_layer, memory_bytes)


@dataclass
class _Work:
    """One kernel: the examples on both sides, and what linearises them."""

    left: Examples
    right: Examples | None
    linearised: Linearised
    flat: bool
    """Whether the kernel is a number a pair of examples."""

    @classmethod
    def of(
        cls,
        network: nn.Module | Specimen,
        x1: Any,
        x2: Any,
        outputs: Which,
        directions: Tensor | None,
        names: Iterable[str] | None,
        per_layer: bool,
    ) -> _Work:
        left, right = examples_of(network, x1, x2)
        space = ParameterSpace.of(left.specimen, names)
        parameters = dict(zip(space.names, space.parameters, strict=True))
        made = Linearised(left.specimen, parameters, directions, outputs == "trace", per_layer)
        work = cls(left, right, made, outputs != "all")
        if outputs not in ("all", "trace"):
            work._choose(outputs)
        return work

    def _choose(self, output: Any) -> None:
        """Only one output."""
        made = self.linearised
        with self.ready(), torch.no_grad():
            each = self.left.specimen.forward(next(self.left.blocks(1)))[0].numel()
        rows = torch.eye(each) if made.directions is None else made.directions
        if not isinstance(output, int) or isinstance(output, bool) or not 0 <= output < len(rows):
            raise SettingError(
                f'outputs must be "all", "trace" or an index from 0 to {len(rows) - 1}',
                repr(output),
                "Choose one of them.",
            )
        made.directions = rows[output : output + 1]

    @contextlib.contextmanager
    def ready(self) -> Iterator[None]:
        """The network in the mode to be measured, with kernels whose backward pass has rules."""
        specimen = self.left.specimen
        with (
            specimen.measuring(),
            specimen.processes.telling_failure(),
            twice_differentiable(specimen.model, specimen.device),
            torch.enable_grad(),
        ):
            yield

    def plan(self, per_layer: bool, memory_bytes: int) -> KernelPlan:
        """Blocks that fit."""
        probe = next(self.left.blocks(2))
        right = None if self.right is None else self.right.count
        copies = 1 + (len(self.linearised.parameters) if per_layer else 0)
        plan = plan_blocks(self.linearised, probe, self.left.count, right, copies, memory_bytes)
        self.linearised.memory_bytes = min(self.linearised.memory_bytes, memory_bytes - plan.result_bytes)
        return plan

    def run(self, plan: KernelPlan, per_layer: bool) -> TangentKernel:
        """Every pair of blocks; with several processes each takes every P-th row of them."""
        result, processes = _Result.of(self, per_layer), self.left.specimen.processes
        kept: dict[int, Block] = {}
        for i, (start, batch) in enumerate(self._numbered(self.left, plan)):
            if i % processes.count != processes.rank:
                continue
            left = kept.pop(i) if self.right is None and i in kept else self.linearised.block(batch)
            for j, (other, paired) in enumerate(self._numbered(self.right or self.left, plan)):
                if self.right is None and j <= i:
                    if j == i:
                        result.enter(start, start, left, left, same=True)
                    continue
                right = kept[j] if j in kept else self.linearised.block(paired)
                if plan.kept:
                    kept[j] = right
                result.enter(start, other, left, right, mirrored=self.right is None)
        formed = {
            name: why for one in processes.of_each(dict(self.linearised.formed)) for name, why in one.items()
        }
        names = tuple(result.shares)
        stored = processes.summed((result.stored, *result.shares.values()))  # tiles of others are zero here
        result = _Result(stored[0], dict(zip(names, stored[1:], strict=True)), self.flat)
        return TangentKernel(result.values, result.parts, formed, plan)

    def _numbered(self, examples: Examples, plan: KernelPlan) -> Iterator[tuple[int, Batch]]:
        """Each block with the number of its first example."""
        start = 0
        for batch in examples.blocks(plan.block):
            yield start, batch
            start += examples.specimen.objective.size(batch)


@dataclass
class _Result:
    """The kernel being filled, tile by tile."""

    stored: Tensor
    shares: dict[str, Tensor]
    flat: bool
    _total: Tensor | None = None

    @classmethod
    def of(cls, work: _Work, per_layer: bool) -> _Result:
        linearised = work.linearised
        k = 1 if linearised.summed else linearised.columns
        shape = (work.left.count, k, (work.right or work.left).count, k)
        empty = lambda: torch.zeros(shape, dtype=linearised.dtype, device=work.left.specimen.device)
        names = linearised.parameters if per_layer else ()
        return cls(empty(), {name: empty() for name in names}, work.flat)

    def enter(
        self, start: int, other: int, left: Block, right: Block, *, same: bool = False, mirrored: bool = False
    ) -> None:
        """Add up the tile of two blocks and write it, on both sides of the diagonal where it is mirrored."""
        k = self.stored.shape[1]
        shape = (left.count, k, right.count, k)
        if self._total is None or self._total.shape != shape:  # else used again: the heap stays in one piece
            self._total = torch.empty(shape, dtype=torch.float64, device=self.stored.device)
        total = self._total.zero_()
        for name in [name for name in left.factors if name in right.factors]:
            share = left.factors[name].times(right.factors[name]).view(shape)
            total += share
            if self.shares:
                _write(self.shares[name], share, start, other, same, mirrored)
        _write(self.stored, total, start, other, same, mirrored)

    @property
    def values(self) -> Tensor:
        """As (N, M, C, C), or (N, M)."""
        return self._shaped(self.stored)

    @property
    def parts(self) -> dict[str, Tensor]:
        """Shares likewise."""
        return {name: self._shaped(share) for name, share in self.shares.items()}

    def _shaped(self, stored: Tensor) -> Tensor:
        return stored[:, 0, :, 0] if self.flat else stored.transpose(1, 2)


def _write(target: Tensor, tile: Tensor, start: int, other: int, same: bool, mirrored: bool) -> None:
    """Enter a tile (n, k, m, k) at its place; a tile on the diagonal is made exactly symmetric."""
    turned = tile.permute(2, 3, 0, 1)
    tile = (tile + turned) / 2 if same else tile
    n, m = tile.shape[0], tile.shape[2]
    target[start : start + n, :, other : other + m] = tile
    if mirrored:
        target[other : other + m, :, start : start + n] = turned
