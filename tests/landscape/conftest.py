"""Small specimens whose landscapes are known, and networks that are awkward to move."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone import Specimen
from torchstone.objectives import Classification, Objective

Formula = Callable[[Tensor, Tensor], Tensor]


class Pair(nn.Module):
    """Two numbers x and y as a network: its output is both of them, whatever the input."""

    def __init__(self, x: float, y: float) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.tensor([x, y], dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.place.expand(len(inputs), 2)


class Height(Objective):
    """The loss is a formula f(x, y) of the two numbers, the same for every example."""

    def __init__(self, formula: Formula) -> None:
        self.formula = formula

    def outputs(self, model: nn.Module, batch: Any) -> Tensor:
        return model(batch)

    def losses(self, outputs: Tensor, batch: Any) -> Tensor:
        return self.formula(outputs[:, 0], outputs[:, 1])


@pytest.fixture(scope="session")
def height_map() -> Callable[..., Specimen]:
    """A specimen whose landscape is f."""

    def make(formula: Formula, x: float = 0.0, y: float = 0.0) -> Specimen:
        return Specimen(Pair(x, y), Height(formula), torch.zeros(3, 1, dtype=torch.float64), batch_size=2)

    return make


@pytest.fixture(scope="session")
def randomised() -> Callable[..., Any]:
    """The network with weights, and statistics of normalisation, from an explicit generator."""

    def make(model: nn.Module, seed: int, dtype: torch.dtype = torch.float64) -> nn.Module:
        model.to(dtype)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                scale = max(1, parameter[0].numel()) ** -0.5 if parameter.ndim > 1 else 0.5
                drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.copy_(scale * drawn + (parameter.ndim == 1))
            for name, buffer in model.named_buffers():
                if buffer.is_floating_point():
                    drawn = torch.rand(buffer.shape, generator=generator, dtype=torch.float64)
                    buffer.copy_(drawn - 0.5 if name.endswith("mean") else 0.5 + drawn)
        return model.eval()

    return make


@pytest.fixture(scope="session")
def normalised_cnn(randomised: Callable[..., Any]) -> Callable[..., nn.Module]:
    """Convolutions with batch normalisation, pooling, flattening and dense layers."""

    def make(seed: int, dtype: torch.dtype = torch.float64) -> nn.Module:
        layers = [nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)]
        layers += [
            nn.Conv2d(4, 5, 2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(20, 6),
            nn.BatchNorm1d(6),
            nn.Tanh(),
        ]
        return randomised(nn.Sequential(*layers, nn.Linear(6, 3)), seed, dtype)

    return make


@pytest.fixture(scope="session")
def images() -> tuple[Tensor, Tensor]:
    """23 images (1, 6, 6) of three classes."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(23, 1, 6, 6, generator=generator, dtype=torch.float64)
    return x, x.flatten(1)[:, :3].argmax(1)


@pytest.fixture(scope="session")
def classifier() -> Callable[..., Specimen]:
    """A classifier with its data in batches of 8."""

    def make(model: nn.Module, data: tuple[Tensor, Tensor], **options: Any) -> Specimen:
        dtype = next(model.parameters()).dtype
        x, y = data
        return Specimen(model, Classification(), (x.to(dtype), y), **{"batch_size": 8, **options})

    return make
