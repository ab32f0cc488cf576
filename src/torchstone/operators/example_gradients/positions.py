"""Signals and activations of a parameter's uses as rows: by example, by group, by position."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from torchstone.operators.example_gradients.direct import DirectUse
from torchstone.operators.example_gradients.layout import Layout
from torchstone.operators.example_gradients.outer import OuterUse


def stack_as_positions(uses: Sequence[OuterUse | DirectUse]) -> bool:
    """Whether all uses are outer products of one kind and orientation, so that their positions can be lined up."""
    outer = [use for use in uses if isinstance(use, OuterUse)]
    if len(outer) < len(uses):
        return False
    if len(outer) == 1:
        return outer[0].use.keeps_norms
    kinds = {(use.activation_first, use.one_hot, use.use.signature, use.use.node.name()) for use in outer}
    return len(kinds) == 1 and next(iter(kinds))[2] in ((), ("TBackward0",))


def signal_by_example(use: OuterUse, layout: Layout, signal: Tensor, examples: int) -> Tensor:
    """The signal at a use's output as rows (N, groups, T, width of u)."""
    rows = use.rows(widened(signal))
    return by_example(use, layout, rows, examples, rows.ndim - 1)


def activations_by_example(use: OuterUse, layout: Layout, examples: int) -> Tensor:
    """A use's activations (N, groups, T, width of v), or its indices (N, 1, T)."""
    end = use.activations.ndim - (0 if use.one_hot else 1)
    return by_example(use, layout, use.activations, examples, end)


def by_example(use: OuterUse, layout: Layout, rows: Tensor, examples: int, end: int) -> Tensor:
    """Rows (groups, positions..., width) or indices (1, positions...) as (N, groups, T, width) or (N, 1, T)."""
    parts = Layout(use.axes[layout.axis], layout.example_major).by_example(rows, examples)
    return parts.flatten(2, end)


def widened(tensor: Tensor) -> Tensor:
    """Half precision as float32."""
    return tensor.float() if tensor.is_floating_point() and tensor.dtype.itemsize < 4 else tensor
