"""A small dense network on two interleaved half-moons."""

from __future__ import annotations

import torch

from torchstone.data.two_moons import two_moons
from torchstone.objectives import Classification
from torchstone.specimen import Specimen
from torchstone.specimens.networks import mlp
from torchstone.specimens.trained import Training, trained
from torchstone.training.evaluation import cross_entropy


def build(noise: float = 0.2, label_noise: float = 0.0, epochs: int = 100, seed: int = 0) -> Specimen:
    """400 training and 1,000 test points in the plane, two hidden layers of 64 units, SGD with momentum.

    Args:
        noise: Standard deviation of the points around the half-circles.
        label_noise: Share of the training labels that is flipped.
        epochs: Passes over the training data.
        seed: Of data, initial weights and order.
    """
    data = two_moons(noise=noise, label_noise=label_noise, seed=seed)

    def network(*, width: int = 64, generator: torch.Generator) -> torch.nn.Module:
        return mlp([2, width, width, 2], generator=generator)

    training = Training(
        build=network,
        losses=cross_entropy,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
        batch_size=32,
        epochs=epochs,
    )
    return trained("two-moons", data, Classification(data.names), training, seed)
