"""Networks and data that the tests of this room share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class TwoClasses:
    """A logistic model: the score of class 1 over class 0 is f(x) = <w, x> + b; labels are what it predicts."""

    weight: Tensor
    bias: float
    inputs: Tensor
    labels: Tensor

    def logits(self, x: Tensor) -> Tensor:
        score = x @ self.weight + self.bias
        return torch.stack([-score / 2, score / 2], dim=1)

    def lead(self, x: Tensor) -> Tensor:
        """By how much the label leads: positive where the prediction is right."""
        sign = 2 * self.labels - 1
        return sign * (x @ self.weight + self.bias)


@pytest.fixture
def two_classes() -> TwoClasses:
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(7, generator=generator, dtype=torch.float64)
    inputs = 0.8 * torch.rand(40, 7, generator=generator, dtype=torch.float64) + 0.1
    bias = -float((inputs @ weight).median()) + 0.01
    labels = (inputs @ weight + bias > 0).long()
    return TwoClasses(weight, bias, inputs, labels)


@pytest.fixture
def network() -> Callable[..., nn.Sequential]:
    """A maker of small random networks, the same for the same seed."""

    def make(*sizes: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Sequential:
        generator = torch.Generator().manual_seed(seed)
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(sizes):
            layer = nn.Linear(fan_in, fan_out, dtype=torch.float64)
            nn.init.normal_(layer.weight, std=fan_in**-0.5, generator=generator)
            nn.init.normal_(layer.bias, std=0.1, generator=generator)
            layers += [layer, nn.Tanh()]
        return nn.Sequential(*layers[:-1]).to(dtype)

    return make
