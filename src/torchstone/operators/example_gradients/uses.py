"""Where a parameter enters the network: the nodes of the autograd graph that take it, or a rearrangement of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from torchstone.operators.graph import Node


@dataclass(frozen=True)
class Link:
    """One operation of a chain, and which of its outputs the chain goes on with."""

    node: Node
    output: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of that output."""
        return output_shape(self.node, self.output)


@dataclass(frozen=True)
class Use:
    """One use of a parameter: a node takes as argument number `position` the tensor that `chain` makes of it.

    The chain holds reshapes, permutations and choices of a part: operations on this parameter alone.
    """

    node: Node
    position: int
    chain: tuple[Link, ...]
    parameter: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor that the node takes."""
        return self.chain[-1].shape if self.chain else tuple(self.parameter.shape)

    @property
    def signature(self) -> tuple[str, ...]:
        """Names of the chain's nodes."""
        return tuple(link.node.name() for link in self.chain)

    @property
    def keeps_norms(self) -> bool:
        """Whether a gradient has the same norm on both ends of the chain: no entry is chosen twice."""
        return "EmbeddingBackward0" not in self.signature

    def pull_back(self, gradient: Tensor) -> Tensor:
        """Per-example gradients in the tensor taken, (n, *shape), as those in the parameter, (n, *parameter.shape)."""
        shapes = [tuple(self.parameter.shape), *(link.shape for link in self.chain)]
        for position in reversed(range(len(self.chain))):
            link = self.chain[position]
            gradient = _CHAIN[link.node.name()](link, gradient, shapes[position])
        return gradient


def output_shape(node: Node, output: int = 0) -> tuple[int, ...]:
    """Shape of what the node's operation returned."""
    return tuple(node._input_metadata[output].shape)


def find_uses(
    nodes: list[Node], parameters: Mapping[str, Tensor], *, through_tables: bool = False
) -> dict[str, list[Use]]:
    """All uses of each parameter in a graph; none for a parameter that does not occur in it.

    Args:
        nodes: The graph.
        parameters: The parameters by name.
        through_tables: Whether a look-up of rows counts as a choice of a part of the parameter, right where all
            examples look up the same rows (positions), instead of as the use.
    """
    consumers: _Consumers = defaultdict(list)
    for node in nodes:
        for position, (below, output) in enumerate(node.next_functions):
            if below is not None:
                consumers[below].append((output, node, position))
    by_variable = {id(parameter): name for name, parameter in parameters.items()}
    found: dict[str, list[Use]] = {name: [] for name in parameters}
    for node in nodes:
        name = by_variable.get(id(getattr(node, "variable", None)))
        if name is not None:
            found[name] += _follow(node, parameters[name], consumers, through_tables)
    return found


_Consumers = dict[Node, list[tuple[int, Node, int]]]
"""By node, which of its outputs is taken by which node as which argument."""


def _follow(leaf: Node, parameter: Tensor, consumers: _Consumers, through_tables: bool) -> list[Use]:
    """The uses at the ends of all chains from a parameter."""
    uses = []
    stack: list[tuple[Node, tuple[Link, ...]]] = [(leaf, ())]
    while stack:
        source, chain = stack.pop()
        if not consumers[source]:  # the outputs themselves: a use that no rule knows
            uses.append(Use(source, -1, chain, parameter))
        for output, consumer, position in consumers[source]:
            longer = chain if source is leaf else (*chain, Link(source, output))
            kind = consumer.name()
            if kind in _CHAIN and (through_tables or kind != "EmbeddingBackward0"):
                stack.append((consumer, longer))
            else:
                uses.append(Use(consumer, position, longer, parameter))
    return uses


# -- from the gradient at an output of an operation to that at its input, of a given shape; examples stay in front ------

_Undo = Callable[[Link, Tensor, tuple[int, ...]], Tensor]


def _reshape(_link: Link, gradient: Tensor, shape: tuple[int, ...]) -> Tensor:
    return gradient.reshape(gradient.shape[0], *shape)


def _t(_link: Link, gradient: Tensor, shape: tuple[int, ...]) -> Tensor:
    return gradient.transpose(-1, -2) if len(shape) == 2 else gradient


def _transpose(link: Link, gradient: Tensor, shape: tuple[int, ...]) -> Tensor:
    first, second = (signed(dim) % len(shape) + 1 for dim in (link.node._saved_dim0, link.node._saved_dim1))
    return gradient.transpose(first, second)


def _permute(link: Link, gradient: Tensor, shape: tuple[int, ...]) -> Tensor:
    order = [signed(dim) % len(shape) for dim in link.node._saved_dims]
    inverse = sorted(range(len(order)), key=lambda position: order[position])
    return gradient.permute(0, *(position + 1 for position in inverse))


def _slice(link: Link, gradient: Tensor, shape: tuple[int, ...]) -> Tensor:
    node, dim = link.node, signed(link.node._saved_dim) % len(shape)
    rows = range(shape[dim])[slice(signed(node._saved_start), signed(node._saved_end), node._saved_step)]
    return _placed(gradient, dim, list(rows), shape)


def _select(link: Link, gradient: Tensor, shape: tuple[int, ...]) -> Tensor:
    dim = signed(link.node._saved_dim) % len(shape)
    return _placed(gradient.unsqueeze(dim + 1), dim, [signed(link.node._saved_index) % shape[dim]], shape)


def _split(link: Link, gradient: Tensor, shape: tuple[int, ...]) -> Tensor:
    node, dim = link.node, signed(link.node._saved_dim) % len(shape)
    if node.name() == "SplitWithSizesBackward0":
        start = sum(node._saved_split_sizes[: link.output])
    else:
        start = link.output * node._saved_split_size
    return _placed(gradient, dim, list(range(start, start + link.shape[dim])), shape)


def _placed(gradient: Tensor, dim: int, rows: list[int], shape: tuple[int, ...]) -> Tensor:
    whole = gradient.new_zeros(gradient.shape[0], *shape)
    return whole.index_copy(dim + 1, torch.tensor(rows, device=gradient.device, dtype=torch.long), gradient)


def _table(link: Link, gradient: Tensor, shape: tuple[int, ...]) -> Tensor:
    indices, width = link.node._saved_indices.reshape(-1), shape[-1]
    rows = gradient.reshape(gradient.shape[0], -1, width)
    rows = rows.masked_fill((indices == signed(link.node._saved_padding_idx))[None, :, None], 0.0)
    return gradient.new_zeros(gradient.shape[0], *shape).index_add(1, indices, rows)


def signed(number: int) -> int:
    """Nodes save some numbers as unsigned: -1 reads 2^64 - 1."""
    return number - 2**64 if number >= 2**63 else number


_CHAIN: dict[str, _Undo] = {
    **{
        f"{name}Backward0": _reshape
        for name in ("View", "UnsafeView", "ReshapeAlias", "Unsqueeze", "Clone", "ToCopy", "Alias")
    },
    **{f"SqueezeBackward{number}": _reshape for number in range(6)},
    "TBackward0": _t,
    "TransposeBackward0": _transpose,
    "PermuteBackward0": _permute,
    "SliceBackward0": _slice,
    "SelectBackward0": _select,
    "SplitBackward0": _split,
    "SplitWithSizesBackward0": _split,
    "EmbeddingBackward0": _table,
}
