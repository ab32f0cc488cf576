"""Bits that an autoencoder needs for training and for test examples, beside a linear one with as many features."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from torchstone.memory import Codelength, ProbabilisticPCA, fit_code_model, noisy_code_bits
from torchstone.workbench.code_layer import code_layer
from torchstone.workbench.input_map import InputMap

WIDEST = 512
LEAST_VARIANCE = 1e-6
"""Floor of the output noise, in units of the mean variance of an input's coordinates."""
PROBES = 4


@dataclass(frozen=True)
class ReconstructionBits:
    """Codelengths by split.

    Args:
        layer: Name of the layer that holds the code.
        width: Its features.
        parts: Split -> the three parts of each example's codelength.
        linear: Split -> bits of each example by probabilistic PCA with as many features; empty where there is none.
        floored: Whether the output noise is at its floor, because the network interpolates.
    """

    layer: str
    width: int
    parts: dict[str, Codelength]
    linear: dict[str, Tensor]
    floored: bool


def reconstruction_bits(
    network: InputMap, splits: dict[str, Tensor], draws: int, generator: torch.Generator
) -> ReconstructionBits | None:
    """Laws of features and noises fitted to the training examples, and what every split costs by them.

    Cost: draws + 3 forward and a few backward passes over the examples given.

    Args:
        network: The network.
        splits: Examples (N, d) by split; "train" is one of them.
        draws: Noisy codes an example.
        generator: Draws them.

    Returns:
        The codelengths; None where no layer is narrower than the input, or where it is too wide.
    """
    train = splits["train"]
    layer = code_layer(network, network.states(train[:16])) if len(train) > 2 else None
    if layer is None or layer.width > WIDEST:
        return None
    codes = {name: layer.encode(network.states(rows)).cpu() for name, rows in splits.items()}
    decode = lambda given: layer.decode(given).cpu()
    errors = (train.double() - decode(codes["train"])).square().sum(1)
    gram = layer.decoder_gram(codes["train"].to(network.specimen.device), probes=PROBES, generator=generator)
    scale = float(train.double().var(0, correction=0).mean())
    floor = max(LEAST_VARIANCE * scale, torch.finfo(torch.float64).tiny * 1e8)
    model = fit_code_model(codes["train"], errors, gram.cpu(), network.width, least_variance=floor)
    parts = {
        name: noisy_code_bits(decode, rows, codes[name], model, draws=draws, generator=generator)
        for name, rows in splits.items()
    }
    linear: dict[str, Tensor] = {}
    if layer.width < network.width and scale > 0:
        law = ProbabilisticPCA.fit(train, layer.width, least_variance=LEAST_VARIANCE)
        linear = {name: law.exact_bits(rows) for name, rows in splits.items()}
    return ReconstructionBits(layer.name, layer.width, parts, linear, model.noise_variance <= floor)
