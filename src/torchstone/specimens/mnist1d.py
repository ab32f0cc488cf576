"""A convolutional network on MNIST-1D."""

from __future__ import annotations

import torch

from torchstone.data.mnist1d import mnist1d
from torchstone.objectives import Classification
from torchstone.specimen import Specimen
from torchstone.specimens.networks import mnist1d_cnn
from torchstone.specimens.trained import Training, trained
from torchstone.training.evaluation import cross_entropy


def build(
    label_noise: float = 0.0, epochs: int = 40, lr: float = 0.1, width: int = 48, seed: int = 0
) -> Specimen:
    """4,000 training and 1,000 test signals of 40 points, SGD with momentum; about 5 seconds.

    Args:
        label_noise: Share of the training labels that is flipped to another class.
        epochs: Passes over the training data.
        lr: Learning rate.
        width: Channels of each convolution.
        seed: Of initial weights and order; the data are the published ones whatever the seed.
    """
    data = mnist1d(label_noise=label_noise)

    def network(*, width: int = width, generator: torch.Generator) -> torch.nn.Module:
        return mnist1d_cnn(width=width, generator=generator)

    training = Training(
        build=network,
        losses=cross_entropy,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=lr, momentum=0.9),
        batch_size=128,
        epochs=epochs,
    )
    return trained("mnist1d", data, Classification(data.names), training, seed)
