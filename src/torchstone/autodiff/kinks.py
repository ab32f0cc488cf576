"""Where a computation meets a point at which an operation has no derivative."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_AT_ZERO = {
    torch.relu,
    torch.relu_,
    torch.Tensor.relu,
    torch.Tensor.relu_,
    functional.relu,
    functional.relu_,
    functional.leaky_relu,
    functional.leaky_relu_,
    functional.prelu,
    functional.threshold,
    torch.abs,
    torch.Tensor.abs,
}
# Kinks elsewhere, as the call's defaults have them.
_ELSEWHERE: dict[Any, tuple[float, ...]] = {
    functional.relu6: (0.0, 6.0),
    functional.hardtanh: (-1.0, 1.0),
    functional.hardtanh_: (-1.0, 1.0),
    functional.hardsigmoid: (-3.0, 3.0),
    functional.hardswish: (-3.0, 3.0),
}


@dataclass(frozen=True)
class Kink:
    """One call that met its kink.

    Attributes:
        operation: Name of the function.
        hits: Coordinates that lie exactly on a kink.
        size: Coordinates altogether.
    """

    operation: str
    hits: int
    size: int


def kinks(function: Callable[..., Any], *arguments: Any) -> list[Kink]:
    """The calls inside `function(*arguments)` whose input lies exactly on a kink, in order.

    Automatic differentiation picks one slope there (0 for ReLU), and the result need not be a derivative of anything:
    relu(t) - relu(-t) = t gets slope 0 at t = 0. On random real data kinks are hit with probability 0; on zero
    padding, dead inputs and zero-initialised layers they are hit all the time.

    Functions of torch with fixed kinks are watched: ReLU and its relatives, absolute value, hardtanh, hardsigmoid,
    hardswish. Maxima and sorting are not.

    >>> [kink.hits for kink in kinks(torch.relu, torch.tensor([-1.0, 0.0, 2.0]))]
    [1]

    Source: Bolte & Pauwels 2020, section 1 (automatic differentiation at kinks).
    """
    watch = _Watch()
    with torch.no_grad(), watch:
        function(*arguments)
    return watch.found


class _Watch(TorchFunctionMode):
    """Looks at inputs before they are used, because some calls overwrite them. What a call calls itself is not seen."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Kink] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        points = (0.0,) if func in _AT_ZERO else _ELSEWHERE.get(func, ())
        if points and args and isinstance(args[0], Tensor):
            hits = sum(int((args[0] == point).sum()) for point in points)
            if hits:
                self.found.append(Kink(func.__name__.rstrip("_"), hits, args[0].numel()))
        return func(*args, **(kwargs or {}))
