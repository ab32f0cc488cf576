"""Where a parameter enters the network: the nodes of the autograd graph that take it, or a rearrangement of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from torchstone.operators.graph import Node

_RESHAPES = frozenset(
    f"{name}Backward0"
    for name in ("View", "UnsafeView", "ReshapeAlias", "Unsqueeze", "Clone", "ToCopy", "Alias")
) | frozenset(f"SqueezeBackward{number}" for number in range(6))
_REARRANGEMENTS = _RESHAPES | {"TBackward0", "TransposeBackward0", "PermuteBackward0"}


@dataclass(frozen=True)
class Use:
    """One use of a parameter: a node takes as argument number `position` the tensor that `chain` makes of it.

    The chain holds only reshapes and permutations, so a gradient has the same norm on both of its ends.
    """

    node: Node
    position: int
    chain: tuple[Node, ...]
    parameter: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor that the node takes."""
        return tuple(output_shape(self.chain[-1])) if self.chain else tuple(self.parameter.shape)

    @property
    def signature(self) -> tuple[str, ...]:
        """Names of the chain's nodes."""
        return tuple(node.name() for node in self.chain)

    def pull_back(self, gradient: Tensor) -> Tensor:
        """Per-example gradients in the tensor taken, (n, *shape), as those in the parameter, (n, *parameter.shape)."""
        if not self.chain:
            return gradient
        shapes = [tuple(self.parameter.shape)] + [tuple(output_shape(node)) for node in self.chain[:-1]]
        for node, shape in zip(reversed(self.chain), reversed(shapes), strict=True):
            gradient = _undo(node, gradient, shape)
        return gradient


def output_shape(node: Node) -> tuple[int, ...]:
    """Shape of what the node's operation returned."""
    return tuple(node._input_metadata[0].shape)


def find_uses(nodes: list[Node], parameters: Mapping[str, Tensor]) -> dict[str, list[Use]]:
    """All uses of each parameter in a graph; none for a parameter that does not occur in it."""
    consumers: dict[Node, list[tuple[Node, int]]] = defaultdict(list)
    for node in nodes:
        for position, (below, _) in enumerate(node.next_functions):
            if below is not None:
                consumers[below].append((node, position))
    by_variable = {id(parameter): name for name, parameter in parameters.items()}
    found: dict[str, list[Use]] = {name: [] for name in parameters}
    for node in nodes:
        name = by_variable.get(id(getattr(node, "variable", None)))
        if name is None:
            continue
        stack: list[tuple[Node, tuple[Node, ...]]] = [(node, ())]
        while stack:
            source, chain = stack.pop()
            if not consumers[source]:  # the outputs themselves: a use that no rule knows
                found[name].append(Use(source, -1, chain, parameters[name]))
            for consumer, position in consumers[source]:
                if consumer.name() in _REARRANGEMENTS:
                    stack.append((consumer, (*chain, consumer)))
                else:
                    found[name].append(Use(consumer, position, chain, parameters[name]))
    return found


def _undo(node: Node, gradient: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Gradient at the input, of that shape, of a rearrangement; the examples stay in front."""
    name = node.name()
    if name == "TBackward0":
        return gradient.transpose(-1, -2) if len(shape) == 2 else gradient
    if name == "TransposeBackward0":
        first, second = (_signed(node._saved_dim0), _signed(node._saved_dim1))
        return gradient.transpose(_shifted(first, len(shape)), _shifted(second, len(shape)))
    if name == "PermuteBackward0":
        order = [_shifted(_signed(dim), len(shape)) for dim in node._saved_dims]
        inverse = sorted(range(len(order)), key=lambda position: order[position])
        return gradient.permute(0, *(position + 1 for position in inverse))
    return gradient.reshape(gradient.shape[0], *shape)


def _signed(dim: int) -> int:
    """Nodes save dimensions as unsigned numbers: -1 reads 2^64 - 1."""
    return dim - 2**64 if dim >= 2**63 else dim


def _shifted(dim: int, ndim: int) -> int:
    return dim % ndim + 1
