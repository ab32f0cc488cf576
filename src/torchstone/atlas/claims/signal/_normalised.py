"""Deep dense networks with and without batch normalisation, and their gradients as one vector."""

from __future__ import annotations

import functools
import itertools
from enum import StrEnum

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from torchstone.data.digits import digits
from torchstone.data.split import DataSplit


class Kind(StrEnum):
    """What follows each hidden linear layer, before ReLU."""

    PLAIN = "plain"
    BATCH = "batch normalisation"
    NOISY = "noisy batch normalisation"


class Noisy(nn.Module):
    """Batch normalisation whose output's mean and deviation are shaken anew at every step, in training mode.

    z -> s z + m with s = 1 + spread u and m = spread v, where u and v are uniform in (-1, 1), one a unit and `step`: whatever
    stability of moments normalisation gave is taken away again (after Santurkar et al. 2018, section 2.2). Between two calls
    of `next_step` the noise is the same, so that gradients of one step can be compared.
    """

    def __init__(self, features: int, spread: float, seed: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(features)
        self.spread, self.seed, self.step = spread, seed, 0

    def forward(self, x: Tensor) -> Tensor:
        """Normalised and shaken; only normalised in eval mode."""
        x = self.norm(x)
        if not self.training:
            return x
        noise = torch.Generator().manual_seed(self.seed + self.step)
        s, m = 2 * torch.rand(2, x.shape[1], generator=noise, dtype=torch.float64).to(x) - 1
        return (1 + self.spread * s) * x + self.spread * m


def next_step(model: nn.Module) -> None:
    """New noise for noisy normalisation."""
    for module in model.modules():
        if isinstance(module, Noisy):
            module.step += 1


def dense(
    kind: Kind,
    depth: int,
    width: int,
    generator: torch.Generator,
    *,
    inputs: int = 64,
    spread: float = 0.5,
    gain: float = 2.0,
) -> nn.Sequential:
    """`depth` linear layers with ReLU between them and ten outputs; weights of variance gain / fan_in, biases 0."""
    layers: list[nn.Module] = []
    sizes = [inputs, *[width] * (depth - 1), 10]
    seeds = torch.randint(2**48, (depth,), generator=generator).tolist()
    for position, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        layer = nn.Linear(fan_in, fan_out, device="meta").to_empty(device="cpu")
        with torch.no_grad():
            layer.weight.copy_(torch.randn(fan_out, fan_in, generator=generator) * (gain / fan_in) ** 0.5)
            layer.bias.zero_()
        layers.append(layer)
        if position < depth - 1:
            layers += [*_normalisation(kind, width, spread, seeds[position]), nn.ReLU()]
    return nn.Sequential(*layers)


def _normalisation(kind: Kind, width: int, spread: float, seed: int) -> list[nn.Module]:
    match kind:
        case Kind.PLAIN:
            return []
        case Kind.BATCH:
            return [nn.BatchNorm1d(width)]
        case Kind.NOISY:
            return [Noisy(width, spread, seed)]


@functools.cache
def digits_once() -> DataSplit:
    """The digits, read once."""
    return digits()


def batch(size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Flat training digits drawn without replacement, and their labels."""
    data = digits_once()
    rows = torch.randperm(len(data.train_x), generator=generator)[:size]
    return data.train_x[rows].flatten(1), data.train_y[rows]


def slope(model: nn.Module, x: Tensor, y: Tensor) -> tuple[float, Tensor]:
    """Mean cross-entropy of a batch and its gradient as one vector."""
    loss = cross_entropy(model(x), y)
    parts = torch.autograd.grad(loss, tuple(model.parameters()))
    return float(loss.detach()), torch.cat([part.flatten() for part in parts])


@torch.no_grad()
def move(model: nn.Module, step: Tensor) -> None:
    """Add one vector to the parameters, in place."""
    for parameter, part in zip(
        model.parameters(), step.split([p.numel() for p in model.parameters()]), strict=True
    ):
        parameter.add_(part.view_as(parameter))
