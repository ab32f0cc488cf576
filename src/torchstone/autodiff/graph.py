"""Reverse mode on any acyclic computation, not only a chain: what flows back along several ways is added."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from torchstone.autodiff.operation import Operation
from torchstone.errors import SettingError


class Graph:
    """A computation written down in the order of its execution.

    >>> from torchstone.autodiff.operation import SQUARE, Add, Multiply
    >>> graph = Graph()
    >>> x = graph.input("x")
    >>> y = graph.add(Add(), graph.add(SQUARE, x), graph.add(Multiply(), x, x))
    >>> graph.gradients({"x": torch.tensor([3.0])}, y)["x"]
    tensor([[12.]])
    """

    def __init__(self) -> None:
        self._nodes: list[tuple[Operation, tuple[int, ...]] | str] = []

    def input(self, name: str) -> int:
        """A new input; the number by which it is referred to.

        Raises:
            SettingError: The name is taken.
        """
        if name in self._nodes:
            raise SettingError("Inputs need names of their own", f"{name!r} twice", "Choose another name.")
        self._nodes.append(name)
        return len(self._nodes) - 1

    def add(self, operation: Operation, *parents: int) -> int:
        """A new node with the values of `parents` as its inputs; its number.

        Raises:
            SettingError: A parent that does not exist yet, so that the order would not be one of execution.
        """
        if unknown := [parent for parent in parents if not 0 <= parent < len(self._nodes)]:
            raise SettingError(
                "Parents are nodes that exist already",
                f"number {unknown[0]}",
                "Add inputs and nodes in order.",
            )
        self._nodes.append((operation, parents))
        return len(self._nodes) - 1

    def values(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Value of every node.

        Raises:
            SettingError: An input without a value.
        """
        found: list[Tensor] = []
        for node in self._nodes:
            if isinstance(node, str):
                if node not in inputs:
                    raise SettingError("Every input needs a value", f"none for {node!r}", "Pass it by name.")
                found.append(inputs[node])
            else:
                operation, parents = node
                found.append(operation.value(*(found[parent] for parent in parents)))
        return found

    def gradients(self, inputs: Mapping[str, Tensor], output: int) -> dict[str, Tensor]:
        """Jacobian of node `output` in every input, shape (m, n_input), in one sweep backwards.

        Args:
            inputs: A vector for each input's name.
            output: The node to differentiate.

        Source: Griewank & Walther 2008, section 3.2 (adjoints are incremented, node after node in reverse).
        """
        values = self.values(inputs)
        size = values[output].numel()
        adjoints: dict[int, Tensor] = {output: torch.eye(size, dtype=values[output].dtype)}
        for number in range(output, -1, -1):
            node = self._nodes[number]
            if isinstance(node, str) or number not in adjoints:
                continue
            operation, parents = node
            arguments = [values[parent] for parent in parents]
            for parent, part in zip(parents, operation.pull(adjoints.pop(number), *arguments), strict=True):
                adjoints[parent] = adjoints[parent] + part if parent in adjoints else part
        names = {node: number for number, node in enumerate(self._nodes) if isinstance(node, str)}
        zero = lambda name: torch.zeros(size, inputs[name].numel(), dtype=inputs[name].dtype)
        return {name: adjoints.get(number, zero(name)) for name, number in names.items()}
