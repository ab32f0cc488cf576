"""Small networks to be trained together and, for comparison, each alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone.specimens.networks import mlp
from torchstone.training.evaluation import cross_entropy
from torchstone.training.fit import History, fit
from torchstone.training.fit_many import TrainedMany, fit_many


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@dataclass(frozen=True)
class Members:
    """Data of 75 examples, six inputs and three classes, and how members are trained on them unless said otherwise.

    The generator of member k has the seed k, together and alone.
    """

    x: Tensor
    y: Tensor

    def network(self, seed: int, norm: nn.Module | None = None) -> nn.Module:
        first, last = mlp([6, 16], generator=generator(seed)), mlp([16, 3], generator=generator(seed + 100))
        return nn.Sequential(first, norm if norm is not None else nn.Identity(), nn.ReLU(), last)

    def networks(self, count: int) -> list[nn.Module]:
        return [self.network(seed) for seed in range(count)]

    def drawn(self, model: nn.Module, seed: int) -> nn.Module:
        """Weights from a seed in a network that drew its own from the global state."""
        stream = generator(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(0.4 * torch.randn(parameter.shape, generator=stream))
        return model

    def together(self, models: Sequence[nn.Module], **settings: Any) -> TrainedMany:
        generators = [generator(seed) for seed in range(len(models))]
        given = {"losses": cross_entropy, "x": self.x, "y": self.y, "generators": generators}
        return fit_many(models, **{**given, **self.settings(), **settings})

    def alone(self, model: nn.Module, k: int, **settings: Any) -> History:
        given = {"losses": cross_entropy, "x": self.x, "y": self.y, "generator": generator(k)}
        return fit(model, **{**given, **self.settings(), **settings})

    def settings(self) -> dict[str, Any]:
        sgd = lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
        return {"optimizer": sgd, "batch_size": 16}

    def assert_same(self, run: TrainedMany, k: int, model: nn.Module, tolerance: float = 2e-5) -> None:
        mine, its = run.ensemble.member(k).state_dict(), model.state_dict()
        assert mine.keys() == its.keys()
        for name, value in its.items():
            assert torch.allclose(mine[name], value, rtol=tolerance, atol=tolerance), name


def drawn_data(count: int) -> tuple[Tensor, Tensor]:
    stream = generator(1)
    return torch.randn(count, 6, generator=stream), torch.randint(3, (count,), generator=stream)


@pytest.fixture(scope="session")
def members() -> Members:
    return Members(*drawn_data(75))


@pytest.fixture(scope="session")
def many_examples() -> Members:
    """The same with 5,000 examples."""
    return Members(*drawn_data(5000))
