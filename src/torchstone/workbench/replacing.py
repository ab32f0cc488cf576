"""Layers whose outputs are not negative, and what the network answers when those outputs are replaced."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torchstone.errors import NotApplicableError
from torchstone.specimen import Specimen
from torchstone.workbench.signals import call_name
from torchstone.workbench.units import UnitAxis

_ANSWERS = (nn.Softmax, nn.Softmax2d, nn.Dropout, nn.Identity, nn.Flatten)


@dataclass(frozen=True)
class Activations:
    """What one call of a module gives for all examples.

    Attributes:
        name: Of the module; its second call is name#2.
        values: (N, ...), float32 or wider, on the CPU.
        axis: The axis of its units.
    """

    name: str
    values: Tensor
    axis: int

    def matrix(self, rows: Tensor) -> Tensor:
        """Some examples as (examples x positions, units)."""
        moved = self.values[rows].movedim(self.axis, -1)
        return moved.reshape(-1, moved.shape[-1])

    def with_matrix(self, rows: Tensor, matrix: Tensor) -> Tensor:
        """The values of some examples, put back from such a matrix."""
        moved = self.values[rows].movedim(self.axis, -1)
        return matrix.reshape(moved.shape).movedim(-1, self.axis).to(self.values.dtype)


def nonnegative_activations(specimen: Specimen, split: str = "train") -> list[Activations]:
    """Outputs of the leaf modules that are never negative and not all zero, in order of execution.

    The module that runs last is left out, and so are outputs equal to those before them and such without a row an example.

    Cost: one forward pass. Memory: the outputs of all of them; restrict the specimen first.

    Args:
        specimen: What is looked at; prepared.
        split: Part of the data.

    Raises:
        NotApplicableError: Outputs of varying shape (sequences padded batch by batch, say).
    """
    parts: dict[str, list[Tensor]] = {}
    axes: dict[str, int] = {}
    last = ""
    with specimen.measuring(), torch.no_grad():
        for batch in specimen.batches(split):
            count, called = specimen.objective.size(batch), []

            def keep(name: str, output: Tensor, axis: int, count: int = count, seen: Any = called) -> None:
                seen.append(name)
                if output.ndim >= 2 and output.shape[0] == count and float(output.min()) >= 0:
                    wide = output if output.dtype == torch.float64 else output.float()
                    parts.setdefault(name, []).append(wide.to("cpu", copy=True))
                    axes[name] = axis

            with _calls(specimen.model, keep):
                specimen.forward(batch)
            last = called[-1] if called else ""
    size, found = specimen.size(split), []
    for name, pieces in parts.items():
        if name == last or sum(map(len, pieces)) != size:
            continue  # negative in some batch
        if len({piece.shape[1:] for piece in pieces}) > 1:
            raise NotApplicableError("needs activations of one shape; those of different batches differ")
        values = torch.cat(pieces)
        repeated = found and found[-1].values.shape == values.shape and torch.equal(found[-1].values, values)
        if bool(values.any()) and bool(torch.isfinite(values).all()) and not repeated:
            found.append(Activations(name, values, axes[name]))
    return found


def scores_replacing(specimen: Specimen, name: str, values: Tensor, split: str = "train") -> Tensor:
    """Class scores (N, C), float64, of the network whose module gives other values in one of its calls.

    Cost: one forward pass.

    Args:
        specimen: What is looked at; prepared.
        name: Of the call, as in `Activations`.
        values: (N, ...), what it gives instead, for the examples in their order.
        split: Part of the data.

    Raises:
        NotApplicableError: The task has no class scores.
    """
    rows, start = [], 0
    with specimen.measuring(), torch.no_grad():
        for batch in specimen.batches(split):
            given = values[start : start + specimen.objective.size(batch)]
            start += len(given)

            def swap(called: str, output: Tensor, _axis: int, given: Tensor = given) -> Tensor | None:
                return given.to(output) if called == name else None

            with _calls(specimen.model, swap):
                rows.append(specimen.objective.scores(specimen.forward(batch)))
    if any(row is None for row in rows):
        raise NotApplicableError("needs one row of class scores per example")
    return torch.cat([row.double().cpu() for row in rows if row is not None])


@contextlib.contextmanager
def _calls(model: nn.Module, see: Callable[[str, Tensor, int], Tensor | None]) -> Iterator[None]:
    """Inside, every call of a leaf module goes through `see`, which may return other values."""
    axis, called = UnitAxis(), set[str]()

    def hook(module: nn.Module, _inputs: Any, output: Any, name: str) -> Tensor | None:
        if not isinstance(output, Tensor) or not output.is_floating_point():
            return None
        axis.see(module, output)
        key = call_name(name, called)
        called.add(key)
        return see(key, output, axis.of(output))

    handles = [
        module.register_forward_hook(
            lambda module, inputs, output, name=name: hook(module, inputs, output, name or "model")
        )
        for name, module in model.named_modules()
        if not any(True for _ in module.children()) and not isinstance(module, _ANSWERS)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
