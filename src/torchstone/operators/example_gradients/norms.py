"""Squared norms of single examples' gradients in one parameter, summed over cotangents, without forming them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.operators.example_gradients.gradients import ExampleGradients
from torchstone.operators.example_gradients.outer import activation_gram, squared_lengths
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
        gradients: The parameter's gradients, with the examples found in every signal.
        columns: Number of cotangents to come, for choosing the cheaper way.
    """

    def __init__(self, gradients: ExampleGradients, columns: int) -> None:
        self.gradients, self.columns = gradients, columns
        self._way = self._cheapest() if gradients.stacked else "explicit"
        self._total: Tensor | None = None
        self._shared: Tensor | None = None

    def _cheapest(self) -> str:
        use, positions = self.gradients.outer, self.gradients.positions
        width = use.one_hot or use.activations.shape[-1]
        gradient = self.gradients.numel / self.gradients.groups
        signal = gradient / width
        if positions == 1:
            return "lengths"
        gram = positions**2 * (signal + (1.0 if use.one_hot else width) / self.columns)
        return "gram" if gram < positions * gradient else "explicit"

    def bytes_per_example(self) -> int:
        """Memory that one example takes while norms are summed, beyond what the graph holds."""
        gradients = self.gradients
        largest = max(gradients.numel, 1) * (1 if gradients.stacked else len(gradients.uses) + 1)
        rows = sum(part[0].numel() for part in gradients.rows if part is not None)
        if self._way == "gram":
            largest = 3 * gradients.groups * gradients.positions**2
        elif self._way == "lengths":
            largest = 0
        return max(4, gradients.uses[0].use.parameter.element_size()) * (rows + largest)

    @torch.no_grad()
    def add(self, signals: Mapping[Node, Tensor], signs: Float[Tensor, " n"]) -> None:
        """Add one cotangent's norms, times a sign an example."""
        if self._way == "explicit":
            made = self.gradients.formed(signals)
            part = made.reshape(len(made), -1).square().sum(1, dtype=torch.float64)
        else:
            rows = self.gradients.signal_rows(signals)
            if self._way == "gram":
                self._add_gram(rows, signs)
                return
            part = rows.square().sum((-1, -2), dtype=torch.float64)
        weighted = part * signs.to(part.dtype).reshape(-1, *(1,) * (part.ndim - 1))
        self._total = weighted if self._total is None else self._total.add_(weighted)

    def _add_gram(self, rows: Float[Tensor, "n g t a"], signs: Float[Tensor, " n"]) -> None:
        """Add sign U U^T, in place: the sums are larger than what is added up."""
        signed = rows * signs.to(rows.dtype).reshape(-1, 1, 1, 1)
        left, right = signed.flatten(0, 1), rows.flatten(0, 1).mT
        if self._total is None:
            self._total = (left @ right).unflatten(0, rows.shape[:2])
        else:
            self._total.flatten(0, 1).baddbmm_(left, right)

    @torch.no_grad()
    def result(self) -> Float[Tensor, " n"]:
        """The sums (N,) since the last call, in float64."""
        total, self._total = self._total, None
        assert total is not None
        if self._way == "explicit":
            return total
        if self._way == "lengths":
            return (total * self._of_activations()).sum(-1)
        return total.mul_(self._of_activations()).sum(-1).flatten(1).sum(1, dtype=torch.float64)

    def _of_activations(self) -> Tensor:
        """What all cotangents share: |v|^2 (N, groups), or V V^T (N, groups, T, T)."""
        if self._shared is None:
            use, rows = self.gradients.outer, self.gradients.activations()
            if self._way == "lengths":
                self._shared = squared_lengths(use, rows).double().sum(-1)
            else:
                self._shared = activation_gram(use, rows)
        return self._shared
