"""Losses and errors of a network, one number per example, and their means over a data set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from torchstone.errors import ObjectiveError, SettingError

PerExample = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""From a network, inputs (N, ...) and targets (N, ...) to one number per example, shape (N,)."""


FEW, MANY = 16, 256
"""Of many rows with few numbers PyTorch's softmax takes each number by itself; of columns it takes a register's width at once."""


def cross_entropy(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """-log softmax(model(x))_y for class indices y (N,), in nats, shape (N,)."""
    outputs = model(x)
    if outputs.ndim == 2 and y.ndim == 1 and outputs.shape[1] < FEW and len(outputs) >= MANY:
        return functional.cross_entropy(outputs.mT[None], y[None], reduction="none")[0]
    return functional.cross_entropy(outputs, y, reduction="none")


def squared_error(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Squared error of each example, averaged over its output coordinates, shape (N,).

    Raises:
        ObjectiveError: Outputs and targets of different shapes, which would broadcast to pairs.
    """
    outputs = model(x)
    if outputs.shape != y.shape:
        raise ObjectiveError(
            f"Targets must have the outputs' shape {tuple(outputs.shape)}",
            f"shape {tuple(y.shape)}",
            "Reshape the targets, for example y[:, None].",
        )
    return (outputs - y).square().flatten(1).mean(1) if outputs.ndim > 1 else (outputs - y).square()


def misclassified(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """1 where the largest output is not at the label, else 0, shape (N,)."""
    return (model(x).argmax(dim=1) != y).float()


def evaluate(model: nn.Module, function: PerExample, x: Tensor, y: Tensor, batch_size: int = 1024) -> Tensor:
    """A loss or error of every example in eval mode, without gradients; the modes are put back afterwards.

    Cost: one forward pass.

    Args:
        model: The network.
        function: Loss or error by example.
        x: Inputs (N, ...).
        y: Targets (N, ...).
        batch_size: Examples at a time.

    Returns:
        One number per example in float64, shape (N,), in the order of x.

    Raises:
        SettingError: No examples, or no batch size.
        ObjectiveError: The function does not return one number per example.
    """
    check_pairs(x, y, batch_size)
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            parts = [
                one_per_example(function(model, some_x, some_y), len(some_x)).double()
                for some_x, some_y in zip(x.split(batch_size), y.split(batch_size), strict=True)
            ]
    finally:
        for module, mode in modes.items():
            module.training = mode
    return torch.cat(parts)


def mean_over(model: nn.Module, function: PerExample, x: Tensor, y: Tensor, batch_size: int = 1024) -> float:
    r"""Empirical risk :math:`\frac1N \sum_i f(\text{model}, x_i, y_i)` in eval mode: the mean of `evaluate`.

    Every example weighs the same, whatever the batch size and however short the last batch; the sum is in float64.

    Args:
        model: The network.
        function: Loss or error by example.
        x: Inputs (N, ...).
        y: Targets (N, ...).
        batch_size: Examples at a time.

    Returns:
        The mean.

    Raises:
        SettingError: No examples, or no batch size.
        ObjectiveError: The function does not return one number per example.
    """
    return float(evaluate(model, function, x, y, batch_size).mean())


def one_per_example(values: Tensor, count: int) -> Tensor:
    """The values, after checking that there is one per example.

    Raises:
        ObjectiveError: Any other shape.
    """
    if values.shape != (count,):
        raise ObjectiveError(
            f"A loss must give one number per example, shape ({count},)",
            f"shape {tuple(values.shape)}",
            'Use reduction="none" and average over everything but the examples.',
        )
    return values


def check_generator(generator: Any) -> None:
    """Randomness comes from an explicit generator on the CPU, so that the same seed gives the same bits.

    Raises:
        SettingError: It is none.
    """
    if not isinstance(generator, torch.Generator) or generator.device.type != "cpu":
        raise SettingError(
            "generator must be a torch.Generator on the CPU",
            f"one on {generator.device}" if isinstance(generator, torch.Generator) else repr(generator)[:60],
            "Pass torch.Generator().manual_seed(0).",
        )


def check_pairs(x: Tensor, y: Tensor, batch_size: int) -> None:
    """Inputs and targets must pair up, and a batch must hold something.

    Raises:
        SettingError: They do not.
    """
    if not (isinstance(x, Tensor) and isinstance(y, Tensor)):
        raise SettingError(
            "x and y must be tensors", f"{type(x).__name__} and {type(y).__name__}", "Use torch.as_tensor."
        )
    if x.ndim == 0 or y.ndim == 0 or len(x) != len(y) or len(x) == 0:
        raise SettingError(
            "x and y must hold the same number of examples, at least one",
            f"shapes {tuple(x.shape)} and {tuple(y.shape)}",
            "Pass one target per input.",
        )
    if not hasattr(batch_size, "__index__") or batch_size < 1:
        raise SettingError(
            "batch_size must be a whole number, at least 1", str(batch_size), "Pass for example 64."
        )
