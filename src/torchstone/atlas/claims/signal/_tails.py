"""Tails of what goes through a network and of its gradients, layer by layer, at the start."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from torchstone.atlas.claims.signal._normalised import Kind, batch, dense
from torchstone.details import Axis, Curve, Line, Marker, Table, numbers


class Tails(NamedTuple):
    """One number a hidden layer, (..., layers) each; inputs of normalisation where there is any.

    Args:
        activations: Kurtosis of the layer's outputs, all examples and units.
        gradients: Kurtosis of the entries of its weight's gradient.
        share: Share of the outputs' mean square that is in the units' means over the batch.
        largest: Largest of these means, in root mean squares of the outputs.
    """

    activations: Tensor
    gradients: Tensor
    share: Tensor
    largest: Tensor


def kurtosis(values: Tensor) -> Tensor:
    """E (v - E v)^4 / Var(v)^2: 3 for a normal distribution, more for heavier tails."""
    centred = values.double().flatten()
    centred = centred - centred.mean()
    return centred.pow(4).mean() / centred.square().mean().square()


def tails_of(model: nn.Sequential, x: Tensor, y: Tensor) -> Tails:
    """Of one network on one batch: forward and backward once."""
    layers = [layer for layer in model if isinstance(layer, nn.Linear)][:-1]
    outputs: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        outputs.append(output.detach().double())

    handles = [layer.register_forward_hook(keep) for layer in layers]
    loss = cross_entropy(model(x), y)
    for handle in handles:
        handle.remove()
    gradients = torch.autograd.grad(loss, [layer.weight for layer in layers])
    means = [output.mean(0) for output in outputs]
    squares = [output.square().mean() for output in outputs]
    return Tails(
        torch.stack([kurtosis(output) for output in outputs]),
        torch.stack([kurtosis(gradient) for gradient in gradients]),
        torch.stack([mean.square().mean() / square for mean, square in zip(means, squares, strict=True)]),
        torch.stack([mean.abs().max() / square.sqrt() for mean, square in zip(means, squares, strict=True)]),
    )


def tails_at_the_start(
    kind: Kind, depth: int, width: int, examples: int, networks: int, generator: torch.Generator
) -> Tails:
    """Of several random networks, (networks, layers) each."""
    found = [
        tails_of(dense(kind, depth, width, generator), *batch(examples, generator)) for _ in range(networks)
    ]
    return Tails(*(torch.stack(field) for field in zip(*found, strict=True)))


def curve(plain: Tails, other: Tails, kind: Kind) -> Curve:
    """Kurtosis by layer, medians of the networks."""
    at = numbers(range(1, plain.gradients.shape[1] + 1))
    lines = [
        Line(f"{what}, {name}", at, numbers(getattr(tails, what).median(0).values))
        for what in ("gradients", "activations")
        for name, tails in (("plain", plain), (kind.value, other))
    ]
    return Curve(
        "Tails of weight gradients and activations, before training",
        Axis("hidden layer, input to output"),
        Axis("kurtosis", log=True),
        tuple(lines),
        (Marker("normal distribution", 3.0),),
        caption="Medians over networks. Without normalisation a few entries of a weight's gradient are far larger than the "
        "rest, and they limit the step for all.",
    )


def table(plain: Tails, other: Tails, kind: Kind) -> Table:
    """All four quantities by layer, medians of the networks."""
    columns, cells = ["hidden layer"], []
    for what, words in (
        ("gradients", "kurtosis of the weight's gradient"),
        ("activations", "kurtosis of the outputs"),
        ("share", "share of the units' means in the mean square"),
        ("largest", "largest mean of a unit (root mean squares)"),
    ):
        for name, tails in (("plain", plain), (kind.value, other)):
            columns.append(f"{words}, {name}")
            cells.append(numbers(getattr(tails, what).median(0).values))
    rows = tuple((i + 1, *row) for i, row in enumerate(zip(*cells, strict=True)))
    return Table(
        "Tails layer by layer, before training",
        tuple(columns),
        rows,
        "Outputs of the linear layers, that is inputs of the normalisation. Large means of units are common to all examples: "
        "gradients of all of them then push the same entries.",
    )
