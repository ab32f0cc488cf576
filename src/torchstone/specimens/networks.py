"""The networks of the built-in specimens: plain modules whose weights come from an explicit generator.

None has batch normalisation or dropout. With ReLU each is piecewise linear in its input and linear in each layer's
weights, so that the trace of its Hessian is that of its Gauss-Newton matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from torchstone.errors import SettingError
from torchstone.init.mean_field import gain


def digits_cnn(*, generator: torch.Generator) -> nn.Module:
    """Convolutional network for images (N, 1, 8, 8): 10 scores, 151,250 parameters.

    Two 3x3 convolutions of 16 and 32 channels, 2x2 maximum pooling, a layer of 280 units; ReLU.

    Args:
        generator: Where the initial weights come from.
    """
    with torch.device("meta"):
        model = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * 4 * 4, 280),
            nn.ReLU(),
            nn.Linear(280, 10),
        )
    return _initialised(model, _keeping_variance(4, torch.relu), generator)


def mnist1d_cnn(*, width: int = 48, generator: torch.Generator) -> nn.Module:
    """Convolutional network for signals (N, 1, 40): 10 scores; 16,618 parameters at width 48.

    Three convolutions of stride 2 with kernels 5, 3 and 3, the receptive fields of the data set's own baseline, and a
    linear layer; ReLU.

    Args:
        width: Channels of each convolution.
        generator: Where the initial weights come from.

    Source: Greydanus & Kobak 2024, section 3.
    """
    with torch.device("meta"):
        model = nn.Sequential(
            nn.Conv1d(1, width, 5, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv1d(width, width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv1d(width, width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(5 * width, 10),
        )
    return _initialised(model, _keeping_variance(4, torch.relu), generator)


def mlp(
    widths: Sequence[int], activation: Callable[[], nn.Module] = nn.ReLU, *, generator: torch.Generator
) -> nn.Module:
    """Dense network; inputs of any shape are flattened.

    Args:
        widths: Numbers of inputs, hidden units and outputs, at least two numbers.
        activation: Makes the activation after each layer but the last.
        generator: Where the initial weights come from.

    Raises:
        SettingError: Fewer than two widths, or one that is not positive.

    Example:
        >>> model = mlp([2, 64, 64, 2], generator=torch.Generator().manual_seed(0))
        >>> sum(parameter.numel() for parameter in model.parameters())
        4482
    """
    if len(widths) < 2 or min(widths) < 1:
        raise SettingError(
            "mlp needs at least two positive widths, inputs and outputs",
            str(list(widths)),
            "Pass [2, 64, 2].",
        )
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs, device="meta"), activation()]
    sigmas = _keeping_variance(len(widths) - 1, activation().eval().double().requires_grad_(False))
    return _initialised(nn.Sequential(*layers[:-1]), sigmas, generator)


class ResidualBlock(nn.Module):
    """x + B ReLU(A x + a) + b, or the same without the x.

    Args:
        width: Numbers in x, and hidden units.
        skip: Whether x is added.
    """

    def __init__(self, width: int, skip: bool) -> None:
        super().__init__()
        self.skip = skip
        self.into, self.back = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """One block, (N, width) to (N, width)."""
        branch = self.back(torch.relu(self.into(x)))
        return x + branch if self.skip else branch


def residual_mlp(
    depth: int,
    width: int,
    skip: bool = True,
    *,
    inputs: int = 64,
    outputs: int = 10,
    generator: torch.Generator,
) -> nn.Module:
    """A linear layer, `depth` residual blocks of two layers each, ReLU and a linear layer; inputs are flattened.

    With `skip` the blocks' last layers start smaller by sqrt(depth), so that the variance grows by a factor of at most
    e over all of them. Without, every layer keeps the variance. The shapes are the same.

    Args:
        depth: Number of blocks.
        width: Numbers between blocks, and units within.
        skip: Whether each block adds its input.
        inputs: Numbers in an input.
        outputs: Numbers in an output.
        generator: Where the initial weights come from.

    Raises:
        SettingError: No blocks or no width.

    Source: He et al. 2016, Identity Mappings in Deep Residual Networks; for the scale, Zhang, Dauphin & Ma 2019.
    """
    if depth < 1 or width < 1:
        raise SettingError(
            "residual_mlp needs depth and width of at least 1",
            f"{depth}, {width}",
            "Pass for example 10, 64.",
        )
    with torch.device("meta"):
        blocks = [ResidualBlock(width, skip) for _ in range(depth)]
        model = nn.Sequential(
            nn.Flatten(), nn.Linear(inputs, width), *blocks, nn.ReLU(), nn.Linear(width, outputs)
        )
    sigmas = [1.0] + depth * [1.0, gain(torch.relu) / (depth**0.5 if skip else 1.0)] + [gain(torch.relu)]
    return _initialised(model, sigmas, generator)


def _initialised(model: nn.Module, sigmas: Sequence[float], generator: torch.Generator) -> nn.Module:
    """The model off the meta device: weights N(0, sigma^2 / fan_in), one sigma a layer in order, and no biases."""
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d)]
    for layer, sigma in zip(layers, sigmas, strict=True):
        layer.to_empty(device="cpu")  # weights alone: an activation may have parameters of its own
        nn.init.normal_(layer.weight, 0.0, sigma / layer.weight[0].numel() ** 0.5, generator=generator)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return model


def _keeping_variance(layers: int, activation: Callable[[Tensor], Tensor]) -> list[float]:
    """Sigmas for a chain of layers with an activation between: inputs of variance 1 stay so up to the outputs."""
    return [1.0] + (layers - 1) * [gain(activation)]
