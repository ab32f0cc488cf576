"""Single examples' gradients in one parameter: the uses they come from, and where in them the examples lie."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.operators.example_gradients.direct import DirectUse, direct_use
from torchstone.operators.example_gradients.layout import Layout, find_layout
from torchstone.operators.example_gradients.outer import OuterUse, explicit, outer_use
from torchstone.operators.example_gradients.positions import (
    activations_by_example,
    signal_by_example,
    stack_as_positions,
    widened,
)
from torchstone.operators.example_gradients.uses import Use
from torchstone.operators.graph import Node


class ExampleGradients:
    """The gradients of a batch's examples in one parameter, as functions of the signals at the nodes that take it.

    Where all uses are outer products of one kind (`stacked`), an example's gradient is sum_t u_t v_t^T over positions t
    of signal rows u and activation rows v, and several calls of a layer add positions. Otherwise it is formed.

    Args:
        uses: All uses of the parameter.
    """

    def __init__(self, uses: list[OuterUse | DirectUse]) -> None:
        self.uses = uses
        self.nodes: list[Node] = [use.use.node for use in uses]
        self.stacked = stack_as_positions(uses)
        self.examples = 0
        self.rows: list[Tensor | None] = []
        self._layouts: list[Layout] = []

    @classmethod
    @torch.no_grad()
    def of(cls, uses: list[Use]) -> ExampleGradients | None:
        """The gradients of a parameter with these uses; None where some use has no rule."""
        made: list[OuterUse | DirectUse] = []
        try:
            for use in uses:
                found = outer_use(use) or direct_use(use)
                if found is None:
                    return None
                made.append(found)
        except (RuntimeError, AttributeError):  # what a node saved was overwritten, or is called otherwise
            return None
        return cls(made)

    @property
    def located(self) -> bool:
        """Whether the examples were found in every signal."""
        return len(self._layouts) == len(self.uses)

    @torch.no_grad()
    def locate(
        self, signals: Mapping[Node, Tensor], scaled: Mapping[Node, Tensor], scales: Float[Tensor, " n"]
    ) -> bool:
        """Find the examples in each use's signals; False where one has no layout by examples."""
        self._layouts, self.examples = [], scales.shape[0]
        for use, node in zip(self.uses, self.nodes, strict=True):
            signal = signals[node]
            axes = list(use.axes) if isinstance(use, OuterUse) else use.axes(signal)
            layout = find_layout(signal, scaled[node], scales, axes)
            if layout is None:
                return False
            self._layouts.append(layout)
        self.rows = [
            activations_by_example(use, layout, self.examples) if isinstance(use, OuterUse) else None
            for use, layout in zip(self.uses, self._layouts, strict=True)
        ]
        return True

    @property
    def outer(self) -> OuterUse:
        """The first use, for stacked ones."""
        use = self.uses[0]
        assert isinstance(use, OuterUse)
        return use

    @property
    def numel(self) -> int:
        """Number of entries of the parameter."""
        return self.uses[0].use.parameter.numel()

    @property
    def positions(self) -> int:
        """Number of outer products a group and example."""
        return sum(part.shape[2] for part in self.rows if part is not None)

    @property
    def groups(self) -> int:
        """Number of blocks of the parameter that see different channels."""
        return next(part.shape[1] for part in self.rows if part is not None)

    def activations(self) -> Tensor:
        """Activation rows of all stacked uses, (N, groups, T, width of v), or indices (N, 1, T), without a graph."""
        parts = [part for part in self.rows if part is not None]
        return widened(parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)).detach()

    def signal_rows(self, signals: Mapping[Node, Tensor]) -> Tensor:
        """Signal rows of all stacked uses, (N, groups, T, width of u)."""
        parts = [
            signal_by_example(use, layout, signals[node], self.examples)
            for use, layout, node in zip(self.uses, self._layouts, self.nodes, strict=True)
            if isinstance(use, OuterUse)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)

    def formed(self, signals: Mapping[Node, Tensor]) -> Tensor:
        """The gradients themselves, (N, ...)."""
        total: Tensor | None = None
        for position, (use, layout) in enumerate(zip(self.uses, self._layouts, strict=True)):
            signal = signals[self.nodes[position]]
            if isinstance(use, OuterUse):
                activations = self.rows[position]
                assert activations is not None
                rows = signal_by_example(use, layout, signal, self.examples)
                made = explicit(use, rows, widened(activations))
            else:
                made = use.gradients(widened(signal), layout, self.examples)
            made = made if len(self.uses) == 1 and use.use.keeps_norms else use.use.pull_back(made)
            total = made if total is None else total + made
        assert total is not None
        return total
