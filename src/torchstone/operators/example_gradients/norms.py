"""Squared norms of single examples' gradients in one parameter, summed over cotangents, without forming them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.operators.example_gradients.direct import DirectUse, direct_use
from torchstone.operators.example_gradients.layout import Layout, find_layout
from torchstone.operators.example_gradients.outer import (
    OuterUse,
    activation_gram,
    explicit,
    outer_use,
    squared_lengths,
)
from torchstone.operators.example_gradients.positions import (
    activations_by_example,
    signal_by_example,
    stack_as_positions,
    widened,
)
from torchstone.operators.example_gradients.uses import Use
from torchstone.operators.graph import Node


class ExampleNorms:
    r"""sum_k sign_nk ||J_n^T s_nk||^2 of the examples of a batch, for one parameter.

    J_n is the Jacobian of example n's outputs in the parameter and s_nk the cotangents; what is back-propagated are
    signals at the nodes that take the parameter. With signal rows U (T, a) and activation rows V (T, b) of an example:

    - one position (T = 1): ||u||^2 ||v||^2;
    - few positions: <U U^T, V V^T>, of T^2 (a + b / K) multiplications a cotangent, as V V^T is needed once;
    - many: ||U^T V||^2, of T a b multiplications.

    Several calls of one layer add positions. Uses of different kinds are formed explicitly and added first.

    Args:
        uses: All uses of the parameter.
        columns: Number of cotangents to come, for choosing the cheaper way.
    """

    def __init__(self, uses: list[OuterUse | DirectUse], columns: int) -> None:
        self.uses, self.columns = uses, columns
        self.nodes: list[Node] = [use.use.node for use in uses]
        self._layouts: list[Layout] = []
        self._stacked = stack_as_positions(uses)
        self._activations: list[Tensor | None] = []
        self._way = "explicit"
        self._total: Tensor | None = None
        self._shared: Tensor | None = None

    @classmethod
    @torch.no_grad()
    def of(cls, uses: list[Use], columns: int) -> ExampleNorms | None:
        """The norms of a parameter with these uses; None where some use has no rule."""
        made: list[OuterUse | DirectUse] = []
        try:
            for use in uses:
                found = outer_use(use) or direct_use(use)
                if found is None:
                    return None
                made.append(found)
        except (RuntimeError, AttributeError):  # what a node saved was overwritten, or is called otherwise
            return None
        return cls(made, columns)

    @property
    def located(self) -> bool:
        """Whether the examples were found in every signal."""
        return len(self._layouts) == len(self.uses)

    @torch.no_grad()
    def locate(
        self, signals: Mapping[Node, Tensor], scaled: Mapping[Node, Tensor], scales: Float[Tensor, " n"]
    ) -> bool:
        """Find the examples in each use's signals; False where one has no layout by examples."""
        self._layouts = []
        for use, node in zip(self.uses, self.nodes, strict=True):
            signal = signals[node]
            axes = list(use.axes) if isinstance(use, OuterUse) else use.axes(signal)
            layout = find_layout(signal, scaled[node], scales, axes)
            if layout is None:
                return False
            self._layouts.append(layout)
        self._prepare(scales.shape[0])
        return True

    def _prepare(self, examples: int) -> None:
        self._activations = [
            activations_by_example(use, layout, examples) if isinstance(use, OuterUse) else None
            for use, layout in zip(self.uses, self._layouts, strict=True)
        ]
        if self._stacked:
            self._way = self._cheapest()

    def _cheapest(self) -> str:
        use, positions = self.uses[0], self._positions()
        assert isinstance(use, OuterUse)
        width = use.one_hot or use.activations.shape[-1]
        gradient = use.use.parameter.numel() / self._groups()
        signal = gradient / width
        if positions == 1:
            return "lengths"
        gram = positions**2 * (signal + (1.0 if use.one_hot else width) / self.columns)
        return "gram" if gram < positions * gradient else "explicit"

    def _positions(self) -> int:
        return sum(part.shape[2] for part in self._activations if part is not None)

    def _groups(self) -> int:
        return next(part.shape[1] for part in self._activations if part is not None)

    def bytes_per_example(self) -> int:
        """Memory that one example takes while norms are summed, beyond what the graph holds."""
        largest = max(self.uses[0].use.parameter.numel(), 1) * (1 if self._stacked else len(self.uses) + 1)
        rows = sum(part[0].numel() for part in self._activations if part is not None)
        if self._way == "gram":
            largest = 3 * self._groups() * self._positions() ** 2
        elif self._way == "lengths":
            largest = 0
        return max(4, self.uses[0].use.parameter.element_size()) * (rows + largest)

    @torch.no_grad()
    def add(self, signals: Mapping[Node, Tensor], signs: Float[Tensor, " n"]) -> None:
        """Add one cotangent's norms, times a sign an example."""
        examples = signs.shape[0]
        if not self._stacked or self._way == "explicit":
            part = (
                self._gradients(signals, examples).reshape(examples, -1).square().sum(1, dtype=torch.float64)
            )
        else:
            rows = self._signal_rows(signals, examples)
            if self._way == "lengths":
                part = rows.square().sum((-1, -2), dtype=torch.float64)
            else:
                part = rows @ rows.mT
        weighted = part * signs.to(part.dtype).reshape(-1, *(1,) * (part.ndim - 1))
        self._total = weighted if self._total is None else self._total.add_(weighted)

    @torch.no_grad()
    def result(self) -> Float[Tensor, " n"]:
        """The sums (N,) since the last call, in float64."""
        total, self._total = self._total, None
        assert total is not None
        if not self._stacked or self._way == "explicit":
            return total
        if self._way == "lengths":
            return (total * self._of_activations()).sum(-1)
        return (total * self._of_activations()).flatten(1).sum(1, dtype=torch.float64)

    def _of_activations(self) -> Tensor:
        """What all cotangents share: |v|^2 (N, groups), or V V^T (N, groups, T, T)."""
        if self._shared is None:
            use = self.uses[0]
            assert isinstance(use, OuterUse)
            rows = widened(torch.cat([part for part in self._activations if part is not None], dim=2))
            if self._way == "lengths":
                self._shared = squared_lengths(use, rows).double().sum(-1)
            else:
                self._shared = activation_gram(use, rows)
        return self._shared

    def _signal_rows(self, signals: Mapping[Node, Tensor], examples: int) -> Tensor:
        """Signals of all uses by example, (N, groups, T, a)."""
        parts = [
            signal_by_example(use, layout, signals[node], examples)
            for use, layout, node in zip(self.uses, self._layouts, self.nodes, strict=True)
            if isinstance(use, OuterUse)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)

    def _gradients(self, signals: Mapping[Node, Tensor], examples: int) -> Tensor:
        """Per-example gradients (N, ...)."""
        total: Tensor | None = None
        for position, (use, layout) in enumerate(zip(self.uses, self._layouts, strict=True)):
            signal = signals[self.nodes[position]]
            if isinstance(use, OuterUse):
                activations = self._activations[position]
                assert activations is not None
                rows = signal_by_example(use, layout, signal, examples)
                made = explicit(use, rows, widened(activations))
            else:
                made = use.gradients(widened(signal), layout, examples)
            made = made if len(self.uses) == 1 and use.use.keeps_norms else use.use.pull_back(made)
            total = made if total is None else total + made
        assert total is not None
        return total
