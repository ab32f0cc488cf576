"""Weights and layers of awkward networks by hand, and the rate they give."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from torchstone.bounds.parameter_count import network_size, parameter_rate
from torchstone.errors import SettingError


def test_dense_convolution_and_normalisation() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5, bias=False)
    )
    size = network_size(model)
    assert (size.weights, size.layers, size.frozen) == (4 * 9 + 4 + 8 + 80, 2, 0)


def test_tied_weights_count_once_and_frozen_ones_apart() -> None:
    embedding, head = nn.Embedding(11, 3), nn.Linear(3, 11, bias=False)
    head.weight = embedding.weight
    middle = nn.Linear(3, 3)
    middle.weight.requires_grad_(False)
    size = network_size(nn.Sequential(embedding, middle, head))
    assert (size.weights, size.layers, size.frozen) == (33 + 3, 3, 9)


def test_parametrised_weights_are_layers_with_what_is_trained() -> None:
    spectral = parametrizations.spectral_norm(nn.Linear(4, 6))
    normed = parametrizations.weight_norm(nn.Linear(6, 2, bias=False))
    assert network_size(nn.Sequential(spectral)).layers == 1
    assert network_size(nn.Sequential(spectral)).weights == 4 * 6 + 6
    size = network_size(nn.Sequential(normed))
    assert (size.weights, size.layers) == (2 + 12, 1)


def test_recurrent_attention_and_empty_networks() -> None:
    assert network_size(nn.LSTM(3, 5, num_layers=2)).layers == 1
    attention = network_size(nn.MultiheadAttention(8, 2))
    assert attention.weights == 3 * 64 + 24 + 64 + 8
    assert attention.layers == 2
    assert network_size(nn.ReLU()) == network_size(nn.Sequential())
    assert network_size(nn.ReLU()).weights == 0


def test_lazy_parameters_are_refused() -> None:
    with pytest.raises(SettingError, match="known size"):
        network_size(nn.LazyLinear(3))


def test_rate() -> None:
    for weights, layers, n in ((2, 1, 1), (10**6, 50, 10**4)):
        expected = math.sqrt(weights * layers * math.log(weights) / n)
        assert parameter_rate(weights, layers, n) == pytest.approx(expected, rel=1e-12)
    with pytest.raises(SettingError, match="weights"):
        parameter_rate(1, 1, 10)
    with pytest.raises(SettingError, match="n must"):
        parameter_rate(10, 1, 0)


def test_the_network_is_left_alone() -> None:
    model = parametrizations.spectral_norm(nn.Linear(4, 6))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    network_size(model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
