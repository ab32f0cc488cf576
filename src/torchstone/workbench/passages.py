"""Tensors that the whole signal passes on its way from a network's input to its output, and Jacobians between them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torchstone import batches
from torchstone.batches import Batch
from torchstone.errors import SettingError
from torchstone.operators.batch_jacobian import BatchJacobian, restricted
from torchstone.operators.graph import Node, nodes_of
from torchstone.specimen import Specimen
from torchstone.workbench.signals import call_name

OUTPUT = "outputs"
_BYTES = 2**28

Took = Callable[[str, Tensor, int], None]
"""Told of a module's call, what it takes, and how many modules with weights of their own ran before."""


class PassageJacobian(BatchJacobian):
    """d (what passes at `target`) / d (what passes at `source`), both as `passages` names them.

    Cost and memory: as for `LayerJacobian`.

    Args:
        specimen: What is examined.
        source: The earlier passage.
        target: The later one.
        split: Part of the data.
        rows: Only these examples.
    """

    def __init__(self, specimen: Specimen, source: str, target: str, split: str, rows: Tensor | int) -> None:
        self.source, self.target = source, target
        super().__init__(specimen, split, rows, _BYTES)

    def _link(self, batch: Batch, forward: Callable[[Batch], Tensor]) -> tuple[Tensor, Tensor]:
        seen: dict[str, Tensor] = {}

        def took(name: str, tensor: Tensor, _: int) -> None:
            if name == self.source and not tensor.requires_grad:
                tensor.requires_grad_(True)  # a leaf, as it depends on nothing
            if name in (self.source, self.target):
                seen[name] = tensor

        outputs = _run(self.specimen.model, forward, batch, took)
        return seen.get(self.target, outputs), seen[self.source]

    def _by_differences(self, X: Float[Tensor, "n k"]) -> Float[Tensor, "m k"]:  # noqa: ARG002
        raise SettingError(
            "Products with a Jacobian between layers need operations that can be differentiated twice",
            self.how.removeprefix("central differences (").removesuffix(")"),
            "Use products with its transpose.",
        )


def passages(specimen: Specimen, row: int = 0, split: str = "train") -> list[str]:
    """Names of the inputs of weighted modules that all of the signal passes, in order, and `OUTPUT` last.

    The first is the first continuous tensor that a module with weights takes: the network's input, or where that is
    tokens, what follows the embedding. Of the others only those count without which nothing of the first would reach
    the outputs: x of a residual block x + F(x), but nothing inside F. So the Jacobian from the first to the last is the
    product of those from one to the next. Between two of them lies at least one module with weights of its own. Named after
    the module that takes it, the outermost of several, "model" for the network itself.

    Found in the autograd graph: a tensor is passed by everything where as many paths lead through it as there are.

    Cost: one forward pass of one example.

    Args:
        specimen: What to look at.
        row: The example.
        split: Part of the data.
    """
    part = restricted(specimen, split, row)
    seen: dict[str, tuple[Tensor, int, int]] = {}

    def took(name: str, tensor: Tensor, before: int) -> None:
        if not seen and not tensor.requires_grad:
            tensor.requires_grad_(True)
        seen[name] = (tensor, tensor._version, before)

    with specimen.measuring(), torch.enable_grad():
        outputs = _run(part.model, part.forward, next(part.batches(split)), took)
        kept = {name: one for name, one in seen.items() if one[0]._version == one[1] and one[0].requires_grad}
        if not kept or outputs.grad_fn is None:
            return []
        paths = _Paths(outputs, next(iter(kept.values()))[0])
        found: list[str] = []
        known, last = -1, None
        for name, (tensor, _, before) in kept.items():
            if before > known and tensor is not last and paths.passed_by_all(tensor):
                found.append(name)
                known, last = before, tensor
        return [*found, OUTPUT] if found else []


class _Paths:
    """Numbers of paths through an autograd graph, from the outputs down to one tensor; exact integers of any length."""

    def __init__(self, outputs: Tensor, source: Tensor) -> None:
        edge = torch.autograd.graph.get_gradient_edge
        end, nodes = edge(source), nodes_of(outputs)
        start = edge(outputs)
        self.down: dict[Node, int] = {}
        for node in reversed(nodes):
            below = [(child, index) for child, index in node.next_functions if child is not None]
            self.down[node] = sum(
                1 if (child, index) == (end.node, end.output_nr) else self.down.get(child, 0)
                for child, index in below
                if child is not end.node or index == end.output_nr
            )
        self.down[end.node] = 1
        up = {start.node: 1}
        self.through: dict[tuple[Node, int], int] = {(start.node, start.output_nr): 1}
        for node in nodes:
            here = up.get(node, 0)
            if node is end.node:
                continue
            for child, index in node.next_functions:
                if child is not None and here:
                    up[child] = up.get(child, 0) + here
                    self.through[child, index] = self.through.get((child, index), 0) + here
        self.total = self.through.get((end.node, end.output_nr), 0)

    def passed_by_all(self, tensor: Tensor) -> bool:
        """Whether every path leads through this tensor."""
        found = torch.autograd.graph.get_gradient_edge(tensor)
        through = self.through.get((found.node, found.output_nr), 0)
        return self.total > 0 and through * self.down.get(found.node, 0) == self.total


def _run(model: nn.Module, forward: Callable[[Batch], Tensor], batch: Batch, took: Took) -> Tensor:
    """The outputs; `took` is told of the first continuous tensor that each module with weights takes."""
    # Copied, because the first module's input may be the user's data, and is marked to need a gradient.
    batch = batches.map_tensors(lambda tensor: tensor.clone(), batch)
    with _telling(model, took):
        return forward(batch)


@contextlib.contextmanager
def _telling(model: nn.Module, took: Took) -> Iterator[None]:
    calls: dict[str, bool] = {}

    def before(name: str, weighted: bool, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        key, ran = call_name(name, calls), sum(calls.values())
        calls[key] = weighted
        values = (*batches.tensors(args), *batches.tensors(kwargs))
        found = next((value for value in values if value.is_floating_point()), None)
        if found is None:
            return None
        took(key, found, ran)
        passed = found.clone()  # which the module may overwrite
        swap = lambda tensor: passed if tensor is found else tensor
        return batches.map_tensors(swap, args), batches.map_tensors(swap, kwargs)

    handles = []
    for name, module in model.named_modules():
        if _weighted(module, recurse=True):
            own = _weighted(module, recurse=False)
            hook = lambda _, args, kwargs, name=name, own=own: before(name or "model", own, args, kwargs)
            handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _weighted(module: nn.Module, *, recurse: bool) -> bool:
    return any(parameter.ndim >= 2 for parameter in module.parameters(recurse))
