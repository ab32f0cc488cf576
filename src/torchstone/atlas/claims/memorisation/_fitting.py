"""Dense ReLU networks from a space into itself, trained until they interpolate to rounding."""

from __future__ import annotations

import itertools
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
    model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator, steps: int = 800, polish: int = 500
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
    optimizer = torch.optim.LBFGS(
        model.parameters(),
        max_iter=polish,
        history_size=20,
        tolerance_grad=1e-14,
        tolerance_change=1e-18,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = squared_error(model, x, y).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    optimizer.zero_grad()
    with torch.no_grad():
        return float(squared_error(model, x, y).mean())
