"""The autograd graph of a tensor: its nodes in order, and which of them PyTorch did not generate."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

Node = Any  # torch.autograd.graph.Node; the attributes read here are not in its stub

_GENERATED = re.compile(r"\w+Backward(Autograd\w+)?\d+(_copy)?")
_INFRASTRUCTURE = (
    "torch::autograd::AccumulateGrad",
    "torch::autograd::CopySlices",
    "torch::autograd::CopyBackwards",
)


# PyTorch's own, but with a wrong second derivative: it takes the saved norms for constants (gradgradcheck fails).
_WRONG_TWICE = ("WeightNormInterfaceBackward0",)


def nodes_of(*tensors: Tensor) -> list[Node]:
    """Every node that the tensors' backward pass may run, each after all nodes it gets its gradient from.

    That is: outputs first, parameters last. Without recursion, as graphs may be thousands of nodes deep.
    """
    order: list[Node] = []
    done: set[Node] = set()
    stack = [(tensor.grad_fn, False) for tensor in tensors if tensor.grad_fn is not None]
    while stack:
        node, expanded = stack.pop()
        if expanded:
            order.append(node)
            continue
        if node in done:
            continue
        done.add(node)
        stack.append((node, True))
        stack += [
            (below, False) for below, _ in node.next_functions if below is not None and below not in done
        ]
    return order[::-1]


def foreign_functions(nodes: list[Node]) -> list[str]:
    """Names of nodes whose backward formula is not PyTorch's own, or wrong when it is differentiated again.

    Custom and compiled functions may compute a first derivative without leaving a graph, and then automatic second
    derivatives are silently incomplete.
    """
    names = {node.name() for node in nodes}
    trusted = lambda name: (
        name in _INFRASTRUCTURE or (_GENERATED.fullmatch(name) and name not in _WRONG_TWICE)
    )
    return sorted(name for name in names if not trusted(name))
