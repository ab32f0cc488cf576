"""A convolutional network on scikit-learn's handwritten digits."""

from __future__ import annotations

import torch

from torchstone.data.digits import digits
from torchstone.objectives import Classification
from torchstone.specimen import Specimen
from torchstone.specimens.networks import digits_cnn
from torchstone.specimens.trained import Training, trained
from torchstone.training.evaluation import cross_entropy


def build(label_noise: float = 0.0, epochs: int = 20, lr: float = 0.05, seed: int = 0) -> Specimen:
    """151,250 parameters, 1,400 training and 397 test images, SGD with momentum; about 2 seconds.

    Args:
        label_noise: Share of the training labels that is flipped to another class.
        epochs: Passes over the training data.
        lr: Learning rate.
        seed: Of data, initial weights and order.
    """
    data = digits(label_noise=label_noise, seed=seed)
    training = Training(
        build=digits_cnn,
        losses=cross_entropy,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=lr, momentum=0.9),
        batch_size=64,
        epochs=epochs,
    )
    return trained("digits", data, Classification(data.names), training, seed)
