"""Dense ReLU networks from a space into itself, trained until they interpolate to rounding."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from torchstone.training.evaluation import squared_error
from torchstone.training.fit import fit


def relu_map(width: int, units: int, hidden: int, gain: float, generator: torch.Generator) -> nn.Sequential:
    """A dense ReLU network R^width -> R^width in float64; weights of variance gain^2 / fan-in, biases 0."""
    sizes = [width, *[units] * hidden, width]
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        layer: Any = nn.utils.skip_init(nn.Linear, fan_in, fan_out, dtype=torch.float64)
        drawn = torch.randn(fan_out, fan_in, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            layer.weight.copy_(gain / fan_in**0.5 * drawn)
            layer.bias.zero_()
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def interpolate(
    model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator, steps: int = 200, polish: int = 500
) -> float:
    """Full-batch Adam, then L-BFGS; the mean squared error that is left."""
    fit(
        model,
        squared_error,
        x,
        y,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-3),
        batch_size=len(x),
        steps=steps,
        generator=generator,
    )
    descend([*model.parameters()], lambda: squared_error(model, x, y).mean(), polish)
    with torch.no_grad():
        return float(squared_error(model, x, y).mean())


def descend(parameters: list[Tensor], loss: Callable[[], Tensor], steps: int) -> list[float]:
    """Minimise a smooth loss by L-BFGS, to rounding if the steps suffice; the losses met on the way."""
    optimizer = torch.optim.LBFGS(
        parameters,
        max_iter=steps,
        history_size=30,
        tolerance_grad=1e-13,
        tolerance_change=1e-18,
        line_search_fn="strong_wolfe",
    )
    met: list[float] = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        met.append(float(value.detach()))
        return value

    optimizer.step(closure)
    optimizer.zero_grad()
    return met
