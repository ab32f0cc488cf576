"""What a derivative costs beside its function: the cheap gradient, counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from torchstone.errors import SettingError


@dataclass(frozen=True)
class GradientCost:
    """Floating-point operations of matrix products and convolutions.

    Attributes:
        function: Of one evaluation.
        gradient: Of one evaluation and one reverse sweep.
    """

    function: int
    gradient: int

    @property
    def ratio(self) -> float:
        """Of gradient to function; Baur and Strassen bound it by a small constant whatever the number of inputs."""
        return self.gradient / self.function


def gradient_cost(function: Callable[..., Tensor], *inputs: Tensor) -> GradientCost:
    """Count the operations of a function and of its gradient in all inputs that require one.

    Counts what `torch.utils.flop_counter` counts: matrix products, convolutions, attention. A linear layer costs
    2 m n forward, and 2 m n for each of its weight and its input backward: a ratio of at most 3. PyTorch's counter takes
    the backward pass of a grouped convolution for that of a full one.

    Args:
        function: Gives a scalar, or anything whose sum is differentiated.
        inputs: Its arguments; parameters that it closes over count too.

    Raises:
        SettingError: Nothing to count, or nothing that requires a gradient.

    Source: Baur & Strassen 1983; Griewank & Walther 2008, section 3.3 (a bound of 5 with memory traffic counted).
    """
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as alone, torch.no_grad():
        function(*(one.detach() for one in inputs))
    with torch.enable_grad():
        output = function(*inputs)
    if not output.requires_grad:
        raise SettingError(
            "Something must require a gradient", "nothing", "Call requires_grad_() on inputs or parameters."
        )
    with FlopCounterMode(display=False) as back:
        torch.autograd.grad(output.sum(), _leaves(output))
    if alone.get_total_flops() == 0:
        raise SettingError(
            "The function must contain a matrix product or a convolution",
            "none",
            "Those are what is counted.",
        )
    forward = alone.get_total_flops()
    return GradientCost(forward, forward + back.get_total_flops())


def _leaves(output: Tensor) -> list[Tensor]:
    """The tensors at the ends of the graph."""
    found: dict[int, Tensor] = {}
    seen, waiting = set(), [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if isinstance(variable, Tensor):
            found[id(variable)] = variable
        waiting += [following for following, _ in node.next_functions]
    return list(found.values())


def forward_mode_gradient(
    function: Callable[[Tensor], Tensor], x: Float[Tensor, " n"]
) -> tuple[Float[Tensor, " n"], int]:
    """The gradient of a scalar function by forward mode: one sweep an input.

    Returns:
        The gradient, and the number of sweeps, n: why reverse mode is used for functions of many inputs.
    """
    basis: Any = torch.eye(x.numel(), dtype=x.dtype)
    slopes = [torch.func.jvp(function, (x,), (direction.view_as(x),))[1] for direction in basis]
    return torch.stack([slope.reshape(()) for slope in slopes]), len(slopes)
