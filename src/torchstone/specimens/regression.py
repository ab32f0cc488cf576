"""A dense network on Friedman's nonlinear regression."""

from __future__ import annotations

import torch

from torchstone.data.regression import regression
from torchstone.objectives import Regression
from torchstone.specimen import Specimen
from torchstone.specimens.networks import mlp
from torchstone.specimens.trained import Training, trained
from torchstone.training.evaluation import squared_error


def build(noise: float = 1.0, epochs: int = 60, seed: int = 0) -> Specimen:
    """1,000 training and 1,000 test examples of 10 features, two hidden layers of 64 units, SGD with momentum.

    Args:
        noise: Standard deviation of the noise on Friedman's scale.
        epochs: Passes over the training data.
        seed: Of data, initial weights and order.
    """
    data = regression(noise=noise, seed=seed)

    def network(*, generator: torch.Generator) -> torch.nn.Module:
        return mlp([10, 64, 64, 1], generator=generator)

    training = Training(
        build=network,
        losses=squared_error,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.02, momentum=0.9),
        batch_size=32,
        epochs=epochs,
    )
    return trained("regression", data, Regression(), training, seed)
