"""Diagnose a network of 100 layers that does not train, mend it by the proposed remedy, and train it.

Run: python examples/mend_a_deep_network.py [--quick]
"""

# ruff: noqa: T201

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

import torchstone
from torchstone import Classification, Recipe, Specimen
from torchstone.data.digits import digits
from torchstone.examination import Examination
from torchstone.mending import Mended, mended
from torchstone.training.evaluation import cross_entropy, mean_over, misclassified
from torchstone.training.fit import fit

LEARNING_RATE, MOMENTUM, BATCH_SIZE = 0.005, 0.9, 64


def tanh_network(depth: int, width: int = 64, *, generator: torch.Generator) -> nn.Module:
    """`depth` linear layers with tanh between, weights and biases as PyTorch draws them for `nn.Linear`."""
    sizes = [64, *[width] * (depth - 1), 10]
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise(sizes):
        layer = nn.utils.skip_init(nn.Linear, inputs, outputs)
        nn.init.uniform_(layer.weight, -(inputs**-0.5), inputs**-0.5, generator=generator)
        nn.init.uniform_(layer.bias, -(inputs**-0.5), inputs**-0.5, generator=generator)
        layers += [layer, nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def sgd(parameters: Any) -> Optimizer:
    """Gradient descent with momentum, small steps for a deep network."""
    return torch.optim.SGD(parameters, lr=LEARNING_RATE, momentum=MOMENTUM)


@dataclass(frozen=True)
class Outcome:
    """What a few epochs made of a network: losses by epoch, and the share of training and test images it gets right."""

    losses: tuple[float, ...]
    train: float
    test: float


def trained(model: nn.Module, epochs: int, seed: int) -> Outcome:
    """Train on the handwritten digits."""
    data = digits()
    history = fit(
        model,
        cross_entropy,
        *data.train,
        optimizer=sgd,
        batch_size=BATCH_SIZE,
        epochs=epochs,
        generator=torch.Generator().manual_seed(seed),
    )
    right = [1 - mean_over(model, misclassified, *part) for part in (data.train, data.test)]
    return Outcome(history["train_loss"], *right)


def diagnosed(depth: int, seed: int) -> tuple[Specimen, Examination]:
    """The untrained network and what gradient flow says of it."""
    data = digits()
    build = lambda *, generator: tanh_network(depth, generator=generator)
    model = build(generator=torch.Generator().manual_seed(seed))
    recipe = Recipe(build=build, optimizer=sgd, batch_size=BATCH_SIZE)
    specimen = Specimen(
        model, Classification(data.names), data.train, data.test, recipe, name=f"tanh {depth}"
    )
    return specimen, torchstone.examine(specimen, "quick", only=["gradient_flow"], seed=seed, progress=False)


def main(quick: bool = False, seed: int = 0) -> tuple[Examination, Mended, Outcome, Outcome]:
    """Diagnose, mend, train both."""
    depth, epochs = 100, 2 if quick else 10
    specimen, examination = diagnosed(depth, seed)
    reading = examination.readings["gradient_flow"]
    remedy = reading.remedies[0]
    print(f"{depth} layers: {reading.headline} Verdict: {reading.verdict.level.value}.")
    print(f"Proposed: {remedy.action} (--try {remedy.trial})")

    found = mended(specimen, remedy.trial, torch.Generator().manual_seed(seed))
    again = torchstone.examine(found.after, "quick", only=["gradient_flow"], seed=seed, progress=False)
    print(f"Mended: {again.readings['gradient_flow'].headline}")

    before = trained(found.before.model, epochs, seed)
    after = trained(found.after.model, epochs, seed)
    print(f"Training loss after {epochs} epochs (chance: log 10 = {math.log(10):.3f})")
    for name, outcome in (("before", before), ("mended", after)):
        print(
            f"  {name}: loss {outcome.losses[-1]:.3f}, right on {outcome.train:.1%} of the training images and on "
            f"{outcome.test:.1%} of the test images"
        )
    return examination, found, before, after


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two epochs instead of ten")
    main(parser.parse_args().quick)
