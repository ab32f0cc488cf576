"""A linear network whose training has a closed form, and a noisy one that tests every source of randomness."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torchstone.specimens.networks import mlp
from torchstone.training.evaluation import cross_entropy
from torchstone.training.fit import History, fit


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="session")
def least_squares() -> Callable[..., tuple[Tensor, Tensor]]:
    """Four inputs and a target, drawn."""

    def make(count: int = 30) -> tuple[Tensor, Tensor]:
        x = torch.randn(count, 4, generator=generator(1), dtype=torch.float64)
        return x, torch.randn(count, 1, generator=generator(2), dtype=torch.float64)

    return make


@pytest.fixture(scope="session")
def linear() -> Callable[[], nn.Linear]:
    """Four weights of one."""

    def make() -> nn.Linear:
        layer = nn.Linear(4, 1, bias=False, device="meta", dtype=torch.float64).to_empty(device="cpu")
        nn.init.ones_(layer.weight)
        return layer

    return make


@dataclass(frozen=True)
class Noisy:
    """A network with batch normalisation and dropout, and data whose last batch of 16 is ragged."""

    x: Tensor
    y: Tensor

    def network(self) -> nn.Module:
        first, last = mlp([6, 16], generator=generator(7)), mlp([16, 3], generator=generator(8))
        return nn.Sequential(first, nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), last)

    def train(self, seed: int = 0, epochs: int = 3, **settings: Any) -> tuple[nn.Module, History]:
        model = self.network()
        optimizer = lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
        settings = {"optimizer": optimizer, "batch_size": 16, **settings}
        history = fit(
            model, cross_entropy, self.x, self.y, generator=generator(seed), epochs=epochs, **settings
        )
        return model, history


@pytest.fixture(scope="session")
def noisy() -> Noisy:
    x = torch.randn(101, 6, generator=generator(3))
    return Noisy(x, torch.randint(3, (101,), generator=generator(4)))


@pytest.fixture(scope="session")
def global_state() -> Callable[[], bytes]:
    """What the global generators of Python, NumPy and PyTorch are at."""
    states = lambda: (torch.get_rng_state().tolist(), np.random.get_state(), random.getstate())  # noqa: NPY002
    return lambda: pickle.dumps(states())
