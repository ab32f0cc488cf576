r"""One parameter's share of the tangent kernel from activations and signals, contracted in the cheaper order.

The gradient of output k of example n in a weight is sum_t u_nkt v_nt^T, over positions t, of signals u and activations
v. Its inner products are sum_{t,s} (u_nkt . u_mls) (v_nt . v_ms):

- one position: the activations' Gram matrix times the signals' Gram matrix, entry by entry;
- few positions: activations of two examples first, then their signals;
- many: positions first, which gives the rows of this parameter's Jacobian, of one block of examples at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.errors import SpecimenError
from torchstone.operators.example_gradients import ExampleGradients
from torchstone.operators.graph import Node

_CHOOSING = {f"{name}Backward0" for name in ("Slice", "Select", "Split", "SplitWithSizes", "Embedding")}
_SMALL_PRODUCTS = 3.0  # how much slower many small matrix products are than one large one


@dataclass(frozen=True)
class Sizes:
    """Numbers that decide how a parameter's share is contracted, and what memory that takes.

    Args:
        numel: Entries of the parameter that the gradient reaches.
        groups: Blocks of the parameter that see different channels.
        positions: Outer products a group and example; 0 where the gradient is no sum of outer products.
        signal: Length of u.
        activation: Length of v, 1 for an index.
        columns: Outputs an example.
        summed: Whether only the sum over the outputs is wanted.
        part: Whether only a part of the parameter is taken, which may be another one in another block.
    """

    numel: int
    groups: int
    positions: int
    signal: int
    activation: int
    columns: int
    summed: bool
    part: bool = False

    @classmethod
    def of(cls, gradients: ExampleGradients, columns: int, summed: bool) -> Sizes:
        """Of a parameter whose examples were found in every signal."""
        part = bool(_CHOOSING.intersection(*[use.use.signature for use in gradients.uses[:1]]))
        if part or not gradients.stacked:
            return cls(gradients.numel, 1, 0, 0, 0, columns, summed, part)
        use, groups = gradients.outer, gradients.groups
        taken = torch.Size(use.use.shape).numel()
        width = use.one_hot or use.activations.shape[-1]
        signal = taken // groups // width
        return cls(taken, groups, gradients.positions, signal, 1 if use.one_hot else width, columns, summed)

    @property
    def by_rows(self) -> bool:
        """Whether rows of the Jacobian are made and multiplied."""
        t, k, a, b = self.positions, self.columns, self.signal, self.activation
        if t <= 1:
            return t == 0
        if self.summed:
            return self.numel * k < self.groups * t * t * (b + k * a + 2)
        pairs = self.groups * (t * t * b + k * t * t * a + k * k * t * a)
        return k * k * self.numel < _SMALL_PRODUCTS * pairs

    @property
    def takes_ones(self) -> bool:
        """Whether a bias can be the weight of one more input."""
        return not self.by_rows

    @property
    def numbers(self) -> int:
        """Numbers kept for an example."""
        if self.by_rows:
            return self.columns * self.numel
        return self.groups * self.positions * (self.columns * self.signal + 2 * self.activation + 1)

    @property
    def passing(self) -> int:
        """Further numbers an example while they are made: one column and its reordered copies."""
        rows = self.groups * self.positions * (2 * self.signal + self.activation)
        return 3 * self.numel + rows if self.by_rows else 2 * rows

    def tile_numbers(self, left: int, right: int) -> int:
        """Numbers in memory while two blocks of examples are multiplied, with the result."""
        k = 1 if self.summed else self.columns
        tile = left * right * k * k
        if self.by_rows:
            return tile
        pairs = left * right * self.positions**2
        rows = self.positions * self.columns * self.signal
        if self.positions == 1:
            return tile + pairs
        if self.summed:
            return 3 * pairs + (left + right) * rows
        return 2 * tile + 2 * pairs + 3 * left * rows


@dataclass(frozen=True)
class Factors:
    """What one block of examples contributes to a parameter's share.

    Args:
        sizes: How to contract.
        signals: (groups, n, K, T, width of u), or the Jacobian's rows (n, K, P).
        activations: (groups, n, T, width of v), indices (1, n, T), or None beside rows.
        indexed: Whether activations are indices.
    """

    sizes: Sizes
    signals: Tensor
    activations: Tensor | None = None
    indexed: bool = False

    def times(self, other: Factors) -> Float[Tensor, "left right"]:
        """Inner products with another block: (nK, mK), or (n, m) summed over outputs.

        Raises:
            SpecimenError: The other block's use of the parameter is of another kind.
        """
        if (self.activations is None) != (other.activations is None):
            raise SpecimenError(
                "A parameter must be used in the same way in all batches",
                "an outer product in one, something else in another",
                "Batch the examples alike.",
            )
        if self.activations is None:
            return _rows(self.signals, self.sizes) @ _rows(other.signals, other.sizes).mT
        total: Tensor | None = None
        for group in range(len(self.signals)):
            share = self._group(other, group)
            total = share if total is None else total.add_(share)
        assert total is not None
        return total

    def _group(self, other: Factors, group: int) -> Tensor:
        u, w = self.signals[group], other.signals[group]  # (n, K, T, a), (m, K, S, a)
        (n, k, t), (m, s) = u.shape[:3], (w.shape[0], w.shape[2])
        similar = self._similar(other, group)
        if self.sizes.summed:
            left, right = (side.transpose(1, 2).flatten(2).flatten(0, 1) for side in (u, w))
            both = (left @ right.mT).mul_(similar)
            return both if t == s == 1 else both.view(n, t, m, s).sum((1, 3))
        if t == s == 1:
            product = u.reshape(n * k, -1) @ w.reshape(m * k, -1).mT
            product.view(n, k, m, k).mul_(similar[:, None, :, None])
            return product
        similar = similar.view(n, t, m, s)
        flat = u.transpose(1, 2).flatten(2)  # (n, T, K a)
        columns = []
        for one in range(m):  # activations first, then signals
            moved = similar[:, :, one].mT @ flat  # (n, S, K a)
            left = moved.unflatten(2, (k, -1)).transpose(1, 2).reshape(n * k, -1)
            columns.append(left @ w[one].flatten(1).mT)
        return torch.cat(columns, dim=1)

    def _similar(self, other: Factors, group: int) -> Float[Tensor, "left right"]:
        """Inner products of activations, (n T, m S)."""
        assert self.activations is not None and other.activations is not None  # noqa: PT018
        v, z = self.activations[group], other.activations[group]
        if self.indexed:
            return (v.reshape(-1, 1) == z.reshape(1, -1)).to(self.signals.dtype)
        return v.flatten(0, 1) @ z.flatten(0, 1).mT


def _rows(rows: Tensor, sizes: Sizes) -> Tensor:
    return rows.flatten(1) if sizes.summed else rows.flatten(0, 1)


class FactorsInTheMaking:
    """Factors of one parameter and block, filled column by column; where `biased`, of its bias too."""

    def __init__(self, gradients: ExampleGradients, sizes: Sizes, biased: bool) -> None:
        self.gradients, self.sizes, self.biased = gradients, sizes, biased
        self._signals: Tensor | None = None

    def add(self, column: int, signals: Mapping[Node, Tensor]) -> None:
        """Enter the signals of one output."""
        part = (
            self._row(signals) if self.sizes.by_rows else self.gradients.signal_rows(signals).transpose(0, 1)
        )
        at = 1 if self.sizes.by_rows else 2
        if self._signals is None:
            self._signals = part.new_empty((*part.shape[:at], self.sizes.columns, *part.shape[at:]))
        self._signals.select(at, column).copy_(part)

    def _row(self, signals: Mapping[Node, Tensor]) -> Float[Tensor, "n P"]:
        made, first = self.gradients.formed(signals), self.gradients.uses[0].use
        if (
            self.sizes.part and len(self.gradients.uses) == 1 and first.keeps_norms
        ):  # still as the use takes it
            made = first.pull_back(made)
        return made.reshape(len(made), -1)

    def finish(self) -> Factors:
        """The factors."""
        assert self._signals is not None
        if self.sizes.by_rows:
            return Factors(self.sizes, self._signals)
        indexed = bool(self.gradients.outer.one_hot)
        activations = self.gradients.activations().transpose(0, 1)
        if self.biased:
            activations = torch.cat([activations, torch.ones_like(activations[..., :1])], dim=-1)
        activations = activations.contiguous()
        return Factors(self.sizes, self._signals, activations, indexed)
