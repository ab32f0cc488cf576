"""The step of many trainings as compiled code: traced once, compiled by TorchInductor, checked against what it replaces."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from torchstone.errors import TorchstoneError
from torchstone.training.order import seeded
from torchstone.training.slopes import Slopes, SlopesOf
from torchstone.training.ways import same


class CompiledSlopes:
    """`SlopesOf` whose whole batches are compiled code; shorter ones, at the end of an epoch, run as before.

    The operators of one call, those of its derivatives included, are recorded and compiled: Python's part, autograd and
    vmap's bookkeeping are gone, elementwise operators are fused. What Python decides, or a number of Python
    that changes between epochs, is what it was while recording.

    Cost: 5 to 30 seconds to compile, under one where the compiler's cache knows the step. Needs a C++ compiler on the CPU,
    Triton on a GPU.

    Args:
        slopes: What is compiled, in the modes of training.
        rows: Row numbers (k, B) of a whole batch.

    Raises:
        Exception: It cannot be compiled, or gives other numbers.
    """

    def __init__(self, slopes: SlopesOf, rows: Tensor) -> None:
        import torch._inductor as inductor
        from torch.fx.experimental.proxy_tensor import make_fx

        self._slopes, self._shape = slopes, rows.shape
        stack, data = slopes.stack, slopes.job.data
        self._data, self._tree = tree_flatten((data.x, data.y, data.inputs, data.targets))
        self._names = (list(stack.parameters), list(stack.buffers))
        self._trained = [name for name, p in stack.parameters.items() if p.requires_grad]
        *self._fixed, rows = self._arguments(rows)
        graph: Any = make_fx(self._function)(*self._arguments(rows, copied=True))
        compile: Any = inductor.compile  # noqa: A001 - its own types are narrower than what it takes
        with torch.no_grad():
            self._compiled = compile(graph, self._arguments(rows, copied=True))
        # Compiled code draws random numbers in another way: then what was recorded is compared in its place.
        random = any(_draws(node.target) for node in graph.graph.nodes)
        if not same(self._told(graph if random else self._compiled, rows), self._told(self._function, rows)):
            raise ArithmeticError("the compiled step gives other numbers")

    def __call__(self, rows: Tensor) -> Slopes:
        """See `SlopesOf`."""
        if rows.shape != self._shape:
            return self._slopes(rows)
        with torch.no_grad():
            losses, notes, *gradients = self._compiled(*self._fixed, rows.to(self._slopes.job.device))
        return Slopes(losses, notes, gradients)

    def _arguments(self, rows: Tensor, copied: bool = False) -> list[Tensor]:
        stack = self._slopes.stack
        buffers = stack.buffers.values()
        own = [p.detach() for p in stack.parameters.values()]
        return [
            *own,
            *([b.clone() for b in buffers] if copied else buffers),
            *self._data,
            rows.to(self._slopes.job.device),
        ]

    def _function(self, *tensors: Tensor) -> list[Tensor | None]:
        given = iter(tensors)
        parameters, buffers = ({name: next(given) for name in names} for names in self._names)
        parameters = {
            name: p.detach().requires_grad_(name in self._trained) for name, p in parameters.items()
        }
        x, y, inputs, targets = tree_unflatten([next(given) for _ in self._data], self._tree)
        data = dataclasses.replace(self._slopes.job.data, x=x, y=y, inputs=inputs, targets=targets)
        losses, notes, gradients = self._slopes.at(parameters, buffers, data, next(given))
        return [losses, notes, *gradients]

    def _told(self, function: Callable[..., Sequence[Any]], rows: Tensor) -> dict[str, Tensor]:
        """What a call gives by name, and what it leaves in the buffers."""
        given = self._arguments(rows, copied=True)
        with seeded(self._slopes.job.device, 0):
            losses, notes, *gradients = function(*given)
        slopes = {
            f"gradient of {name}": g
            for name, g in zip(self._trained, gradients, strict=True)
            if g is not None
        }
        first = len(self._names[0])
        buffers = dict(zip(self._names[1], given[first:], strict=False))
        return {"losses": losses, "notes": notes, **slopes, **buffers}


def _draws(operator: Any) -> bool:
    """Whether it draws random numbers, which compiled code draws in another way: same law, other bits."""
    return torch.Tag.nondeterministic_seeded in getattr(operator, "tags", ())


def compiled_or_not(slopes: SlopesOf, rows: Tensor) -> tuple[SlopesOf | CompiledSlopes, str]:
    """Compiled, or as they are with the reason in words. See `CompiledSlopes`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the compiler's, of its own parts
            return CompiledSlopes(slopes, rows), ""
    except (TorchstoneError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - whatever a compiler says: the training runs without it
        said = str(error).strip().splitlines()
        return slopes, f"not compiled: {said[0][:160] if said else type(error).__name__}"
