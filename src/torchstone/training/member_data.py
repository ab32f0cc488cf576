"""What each member of a group of networks is trained on: its rows of the data, its own inputs or targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from torchstone.errors import SettingError


@dataclass(frozen=True)
class MemberData:
    """Shared examples, and what differs between K members.

    Args:
        x: Inputs (N, ...), a tensor or a tree of them.
        y: Targets (N, ...), likewise.
        rows: The training rows of each member.
        inputs: (K, N, ...) in place of x, or None.
        targets: (K, N, ...) in place of y, or None.
    """

    x: Any
    y: Any
    rows: tuple[Tensor, ...]
    inputs: Any = None
    targets: Any = None

    @classmethod
    def of(
        cls, x: Any, y: Any, members: int, rows: Sequence[Tensor] | Tensor | None, inputs: Any, targets: Any
    ) -> MemberData:
        """Check that everything pairs up.

        Raises:
            SettingError: It does not; what came is named.
        """
        strange = [leaf for tree in (x, y) for leaf in tree_leaves(tree) if not isinstance(leaf, Tensor)]
        if strange:
            raise SettingError(
                "x and y must be tensors, or trees of them", type(strange[0]).__name__, "Use torch.as_tensor."
            )
        sizes = {len(leaf) if leaf.ndim else 0 for tree in (x, y) for leaf in tree_leaves(tree)}
        if len(sizes) != 1 or 0 in sizes:
            raise SettingError(
                "x and y must hold the same number of examples, at least one",
                f"{sorted(sizes)}",
                "Pass one target per input.",
            )
        count = sizes.pop()
        for name, tree in (("inputs", inputs), ("targets", targets)):
            leaves = tree_leaves(tree) if tree is not None else []
            shapes = [tuple(leaf.shape) if isinstance(leaf, Tensor) else () for leaf in leaves]
            wrong = [shape for shape in shapes if shape[:2] != (members, count)]
            if wrong:
                raise SettingError(
                    f"{name} must have shape ({members}, {count}, ...): one set for each member",
                    f"shape {wrong[0]}",
                    "Stack what each member is to see.",
                )
        return cls(x, y, _rows(rows, members, count), inputs, targets)

    def batch(self, members: Tensor, rows: Tensor) -> tuple[Any, Any]:
        """Inputs and targets (k, B, ...) of rows (k, B) of some members."""
        return self._gather(self.x, self.inputs, members, rows), self._gather(
            self.y, self.targets, members, rows
        )

    def alone(self, member: int) -> tuple[Any, Any]:
        """All inputs and targets (N, ...) of one member, before its rows are taken."""
        x = self.x if self.inputs is None else tree_map(lambda leaf: leaf[member], self.inputs)
        y = self.y if self.targets is None else tree_map(lambda leaf: leaf[member], self.targets)
        return x, y

    @staticmethod
    def _gather(shared: Any, own: Any, members: Tensor, rows: Tensor) -> Any:
        if own is None:
            return on_leaves(lambda leaf: _taken(leaf, rows.to(leaf.device)), shared)
        return on_leaves(lambda leaf: leaf[members[:, None].to(leaf.device), rows.to(leaf.device)], own)


def on_leaves(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """`tree_map`, which takes ten times as long where the tree is one tensor."""
    return function(tree) if isinstance(tree, Tensor) else tree_map(function, tree)


def _taken(leaf: Tensor, rows: Tensor) -> Tensor:
    """leaf[rows], four times as fast on the CPU."""
    return leaf.index_select(0, rows.flatten()).unflatten(0, rows.shape)


def _rows(rows: Sequence[Tensor] | Tensor | None, members: int, count: int) -> tuple[Tensor, ...]:
    if rows is None:
        return (torch.arange(count),) * members
    sets = isinstance(rows, Sequence | Tensor) and not isinstance(rows, str)
    if not sets or len(rows) != members:
        raise SettingError(
            f"rows needs the training rows of each of {members} members",
            f"{len(rows)} sets" if sets else f"{rows!r:.80}",
            "Pass K sets.",
        )
    kept = tuple(torch.as_tensor(some).cpu() for some in rows)
    for k, some in enumerate(kept):
        whole = some.ndim == 1 and not some.is_floating_point() and some.dtype != torch.bool and len(some) > 0
        if not whole or int(some.min()) < 0 or int(some.max()) >= count:
            raise SettingError(
                f"rows must hold at least one row number in 0..{count - 1} for each member",
                f"member {k}: {some.dtype} of shape {tuple(some.shape)}"
                + (f" from {some.min()} to {some.max()}" if some.numel() else ""),
                "Pass long tensors; a mask becomes rows by mask.nonzero()[:, 0].",
            )
    return tuple(some.long() for some in kept)
