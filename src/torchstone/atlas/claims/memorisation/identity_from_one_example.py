r"""Trained to reproduce one image, a shallow network learns the identity and a deep one a constant.

One linear layer has a closed form: gradient descent from R on the example \hat x ends at

    f(x) = (x . \hat x / |\hat x|^2) \hat x + R (x - its projection on \hat x),

so the example is reproduced along itself, and the initial weights pass on everything else. Depth changes what is learnt
elsewhere: of convolutional ReLU networks that all fit the one image, shallow ones return other images, deep ones return the
image that they were trained on, whatever they are shown.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torchstone.atlas import Claim, Evidence, Scale, Theme
from torchstone.data.digits import digits
from torchstone.details import Axis, Curve, Line, numbers
from torchstone.memory import identity_correlations, linear_autoencoder_limit
from torchstone.training.evaluation import squared_error
from torchstone.training.fit_many import fit_many

DEPTHS = (1, 2, 4, 8, 12)
CHANNELS, OTHERS = 16, 40
RATES = {1: 6e-2, 2: 2e-2}
"""Of Adam, where 0.02 / depth would be too slow."""


@dataclass(frozen=True)
class Inductive:
    """What networks of one depth make of images they were not trained on, averaged over members and images.

    Args:
        loss: Largest mean squared error on the one training image.
        identity: Correlation of the output with the input.
        constant: Correlation of the output with the training image.
    """

    loss: float
    identity: float
    constant: float


def run(scale: Scale, generator: torch.Generator) -> Evidence:
    """The closed form with the initial weights in it, and convolutional networks of growing depth."""
    images = digits().train_x.double()
    example, others = images[:1], images[1 : OTHERS + 1]
    noise = torch.randn(others.shape, generator=generator, dtype=torch.float64)
    closed = one_layer(example, torch.cat([others, noise]), generator, with_start=True)
    return Evidence.all_of(closed, deeper(scale, example.float(), (others.float(), noise.float()), generator))


def counterexample(scale: Scale, generator: torch.Generator) -> Evidence:
    """The projection on the example alone: what the layer would learn from 0."""
    images = digits().train_x.double()[: OTHERS + 1 if scale is Scale.QUICK else None]
    return one_layer(images[:1], images[1:], generator, with_start=False)


def deeper(scale: Scale, example: Tensor, probes: tuple[Tensor, ...], generator: torch.Generator) -> Evidence:
    """Correlations over the depth of convolutional networks."""
    depths = DEPTHS if scale is Scale.QUICK else (*DEPTHS, 16, 20)
    members, steps = (3, 300) if scale is Scale.QUICK else (10, 600)
    found = {depth: trained(depth, members, steps, example, probes, generator) for depth in depths}
    order = torch.tensor(depths, dtype=torch.float64)
    on_noise = torch.tensor([pair[1].constant for pair in found.values()], dtype=torch.float64)
    on_digits = torch.tensor([pair[0].identity for pair in found.values()], dtype=torch.float64)
    loss = max(pair[0].loss for pair in found.values())
    return Evidence.all_of(
        Evidence.at_most("largest mean squared error on the example", loss, 1e-3, "of images of variance 1"),
        Evidence.at_least(
            "rank correlation of depth with the constant, random images",
            rank_correlation(order, on_noise),
            0.8,
        ),
        Evidence.at_most(
            "rank correlation of depth with the identity, digits", rank_correlation(order, on_digits), -0.8
        ),
        figures=(over_depth(found, 1, "random images"), over_depth(found, 0, "other digits")),
    )


def one_layer(example: Tensor, others: Tensor, generator: torch.Generator, with_start: bool) -> Evidence:
    """A linear layer trained by gradient descent on one example, against the closed form on inputs it has not seen."""
    example, others = example.flatten(1), others.flatten(1)
    d = example.shape[1]
    start = torch.randn(d, d, generator=generator, dtype=torch.float64) / d**0.5
    layer: Any = nn.utils.skip_init(nn.Linear, d, d, bias=False, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(start)
    optimizer = torch.optim.SGD(layer.parameters(), lr=d / (4 * float(example.square().sum())))
    for _ in range(100):
        optimizer.zero_grad()
        squared_error(layer, example, example).mean().backward()
        optimizer.step()
    limit = linear_autoencoder_limit(example, start if with_start else None)
    return Evidence.close(
        "predictions of one layer on other images", layer(others).detach(), others @ limit.T, relative=1e-6
    )


def convolutional(depth: int, generator: torch.Generator) -> nn.Sequential:
    """`depth` convolutions 3 x 3 without biases, ReLU between them, weights of variance 2 / fan-in."""
    sizes = [1, *[CHANNELS] * (depth - 1), 1]
    layers: list[nn.Module] = []
    for entering, leaving in itertools.pairwise(sizes):
        layer: Any = nn.utils.skip_init(nn.Conv2d, entering, leaving, 3, padding=1, bias=False)
        drawn = torch.randn(layer.weight.shape, generator=generator)
        with torch.no_grad():
            layer.weight.copy_((2 / (9 * entering)) ** 0.5 * drawn)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def trained(
    depth: int,
    members: int,
    steps: int,
    example: Tensor,
    probes: tuple[Tensor, ...],
    generator: torch.Generator,
) -> tuple[Inductive, ...]:
    """Networks of one depth trained on one image; what they make of each set of other images."""
    run = fit_many(
        [convolutional(depth, generator) for _ in range(members)],
        squared_error,
        example,
        example,
        # Falling rates: at a constant one some of the deepest networks lose their image again.
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=RATES.get(depth, 2e-2 / depth)),
        scheduler=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps),
        batch_size=1,
        steps=steps,
        generators=[torch.Generator().manual_seed(member) for member in range(members)],
    )
    loss = float(run.ensemble.evaluate(squared_error, example, example).max())
    found = []
    for images in probes:
        pairs = [
            identity_correlations(images, outputs, example)
            for outputs in run.ensemble.outputs(images).double()
        ]
        identity = sum(float(pair.identity.nanmean()) for pair in pairs) / members
        constant = sum(float(pair.constant.nanmean()) for pair in pairs) / members
        found.append(Inductive(loss, identity, constant))
    return tuple(found)


def rank_correlation(x: Tensor, y: Tensor) -> float:
    """Spearman's correlation of values without ties."""
    ranks = torch.stack([x.argsort().argsort(), y.argsort().argsort()]).double()
    return float(torch.corrcoef(ranks)[0, 1])


def over_depth(found: dict[int, tuple[Inductive, ...]], probe: int, name: str) -> Curve:
    """The two correlations over the number of layers."""
    identity = [pair[probe].identity for pair in found.values()]
    constant = [pair[probe].constant for pair in found.values()]
    return Curve(
        f"Trained on one image, shown {name}",
        Axis("convolutional layers"),
        Axis("mean correlation of the output"),
        (
            Line("with the input (identity)", numbers(found), numbers(identity)),
            Line("with the training image (constant)", numbers(found), numbers(constant)),
        ),
        caption="All networks reproduce the training image. Deep ones answer with it to whatever they are shown.",
    )


CLAIM = Claim(
    id="identity_from_one_example",
    theme=Theme.MEMORISATION,
    title="The identity or a constant, from one example",
    statement=(
        "A linear layer trained on one example returns the part of an input along the example and what its initial weights "
        "make of the rest. Convolutional networks trained on one image turn from the identity to a constant with depth."
    ),
    source="Zhang, Bengio, Hardt, Mozer & Singer 2020, sections 3 and 4",
    assumptions=(
        "Gradient descent reaches the example (squared error near 0).",
        "ReLU networks without skip connections or biases, weights of variance 2 / fan-in.",
    ),
    refuted_by="predictions more than 1e-6 from the closed form, or a rank correlation of depth and constancy below 0.8",
    run=run,
    counterexample=counterexample,
    rows=("M04",),
)
