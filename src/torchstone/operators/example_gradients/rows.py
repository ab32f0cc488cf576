"""Several gradients an example in one parameter, kept as factors where its rule gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.operators.example_gradients.gradients import ExampleGradients
from torchstone.operators.example_gradients.outer import OuterUse, explicit
from torchstone.operators.graph import Node

_WHOLE = ((), ("TBackward0",))
"""Chains that take the whole parameter in a fixed order."""


@dataclass(frozen=True)
class OuterRows:
    r"""g_nc = sum_t u_nct v_nt^T in every group g: C gradients an example, which share the activations.

    Attributes:
        signals: u, (N, C, groups, T, a).
        activations: v, (N, groups, T, b); or indices (N, 1, T) of one-hot rows.
        outer: How the products make up the parameter.
    """

    signals: Tensor
    activations: Tensor
    outer: OuterUse

    @property
    def counts(self) -> tuple[int, int]:
        """(N, C)."""
        return self.signals.shape[0], self.signals.shape[1]

    @property
    def numel(self) -> int:
        """Entries of the parameter."""
        return self.outer.use.parameter.numel()

    @property
    def width(self) -> int:
        """Length of v."""
        return self.outer.one_hot or self.activations.shape[-1]

    @property
    def bytes(self) -> int:
        """Memory of the factors."""
        return sum(part.numel() * part.element_size() for part in (self.signals, self.activations))

    def pairs_with(self, other: OuterRows) -> bool:
        """Whether products of factors are products of gradients: both take the same entries in the same order."""
        mine, its = self.outer, other.outer
        same = (
            mine.activation_first == its.activation_first
            and mine.one_hot == its.one_hot
            and mine.use.signature == its.use.signature
            and self.signals.shape[2] == other.signals.shape[2]
        )
        if same and mine.use.signature not in _WHOLE:
            return torch.equal(_places(mine), _places(its))
        return same

    def take(self, part: slice) -> OuterRows:
        """Those of some examples."""
        return OuterRows(self.signals[part], self.activations[part], self.outer)

    def formed(self) -> Float[Tensor, "n c p"]:
        """The gradients themselves, in the parameter's own order."""
        examples, columns = self.counts
        if self.outer.one_hot:
            activations = self.activations.repeat_interleave(columns, 0)
        else:
            activations = self.activations[:, None].expand(-1, columns, -1, -1, -1).flatten(0, 1)
        made = explicit(self.outer, self.signals.flatten(0, 1), activations)
        return self.outer.use.pull_back(made).reshape(examples, columns, -1)


@dataclass(frozen=True)
class FormedRows:
    """Gradients that are formed.

    Attributes:
        gradients: (N, C, p), in the parameter's own order.
    """

    gradients: Float[Tensor, "n c p"]

    @property
    def counts(self) -> tuple[int, int]:
        """(N, C)."""
        return self.gradients.shape[0], self.gradients.shape[1]

    @property
    def numel(self) -> int:
        """Entries of the parameter."""
        return self.gradients.shape[2]

    @property
    def bytes(self) -> int:
        """Memory of the gradients."""
        return self.gradients.numel() * self.gradients.element_size()

    def take(self, part: slice) -> FormedRows:
        """Those of some examples."""
        return FormedRows(self.gradients[part])

    def formed(self) -> Float[Tensor, "n c p"]:
        """The gradients."""
        return self.gradients


Rows = OuterRows | FormedRows


@torch.no_grad()
def rows_of(gradients: ExampleGradients, signals: Mapping[Node, Tensor]) -> Rows:
    """One gradient an example in a parameter (C = 1).

    Args:
        gradients: Of a batch's examples, located.
        signals: What a cotangent sends to the nodes: `BatchGradients.signals`.
    """
    if gradients.stacked:
        rows = gradients.signal_rows(signals)[:, None]
        return OuterRows(rows, gradients.activations(), gradients.outer)
    made = gradients.formed(signals)
    first = gradients.uses[0].use
    if len(gradients.uses) == 1 and first.keeps_norms:  # still as the use takes it
        made = first.pull_back(made)
    return FormedRows(made.reshape(len(made), 1, -1))


def joined(parts: Sequence[Rows]) -> Rows:
    """The gradients of several cotangents, of the same examples in the same parameter."""
    first = parts[0]
    if isinstance(first, OuterRows):
        signals = [part.signals for part in parts if isinstance(part, OuterRows)]
        return OuterRows(torch.cat(signals, dim=1), first.activations, first.outer)
    return FormedRows(torch.cat([part.formed() for part in parts], dim=1))


def _places(outer: OuterUse) -> Tensor:
    """The number of each entry that the use takes, at its place in the parameter; 0 elsewhere."""
    shape = outer.use.shape
    count = torch.Size(shape).numel()
    numbers = torch.arange(1.0, count + 1, dtype=torch.float64, device=outer.use.parameter.device)
    return outer.use.pull_back(numbers.reshape(1, *shape))
