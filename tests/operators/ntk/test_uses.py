"""The tangent kernel of parameters that enter a network several times, in parts or without a layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchstone.operators import ntk

Written = Callable[..., nn.Module]
Build = Callable[[Written], nn.Module]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def head(width: int) -> list[nn.Module]:
    return [nn.Flatten(), nn.Linear(width, 3)]


NETWORKS: dict[str, tuple[Build, tuple[int, ...], tuple[str, ...]]] = {
    "attention": (
        lambda written: written(
            lambda m, x: m.inner[1](m.inner[0](x, x, x, need_weights=False)[0].mean(1)),
            nn.MultiheadAttention(4, 2, batch_first=True),
            nn.Linear(4, 3),
        ),
        (3, 4),
        (),
    ),
    "cross attention": (
        lambda written: written(
            lambda m, x: m.inner[1](m.inner[0](x, x.flip(1), x.flip(1), need_weights=False)[0].mean(1)),
            nn.MultiheadAttention(4, 2, batch_first=True),
            nn.Linear(4, 3),
        ),
        (3, 4),
        (),
    ),
    "transformer, time first": (
        lambda written: written(
            lambda m, x: m.inner[1](m.inner[0](x.transpose(0, 1)).mean(0)),
            nn.TransformerEncoderLayer(4, 2, 6),
            nn.Linear(4, 3),
        ),
        (4, 4),
        (),
    ),
    "lstm": (
        lambda written: written(
            lambda m, x: m.inner[1](m.inner[0](x)[0][:, -1]), nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 3)
        ),
        (5, 3),
        (),
    ),
    "a layer called three times": (
        lambda written: written(
            lambda m, x: m.inner[1](m.inner[0](m.inner[0](m.inner[0](x).tanh()).tanh())),
            nn.Linear(4, 4),
            nn.Linear(4, 3),
        ),
        (4,),
        (),
    ),
    "a weight and its transpose": (
        lambda written: written(lambda m, x: torch.tanh(x @ m.w.T) @ m.w, w=(6, 4)),
        (4,),
        (),
    ),
    "a bias that is also a scale": (
        lambda written: written(lambda m, x: m.inner[0](x * m.b + m.b), nn.Linear(4, 3), b=(4,)),
        (4,),
        (),
    ),
    "positions from a parameter that is longer": (
        lambda written: written(
            lambda m, x: m.inner[0]((x + m.p[:, 1:4]).tanh()), nn.Sequential(*head(12)), p=(1, 5, 4)
        ),
        (3, 4),
        (),
    ),
    "an unused parameter": (
        lambda written: written(lambda m, x: m.inner[0](x), nn.Linear(4, 3), idle=(2,)),
        (4,),
        (),
    ),
    "bilinear": (
        lambda written: written(lambda m, x: m.inner[0](x, x), nn.Bilinear(4, 4, 3)),
        (4,),
        ("inner.0.weight",),
    ),
    "control flow on data": (
        lambda written: written(
            lambda m, x: F.linear(x * (2.0 if float(x.sum()) > -1e9 else 1.0), m.a @ m.b), a=(3, 2), b=(2, 4)
        ),
        (4,),
        ("a", "b"),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_kernels_are_those_of_the_jacobian(name: str, check: Any, written: Written) -> None:
    make, shape, formed = NETWORKS[name]
    check(make(written), shape, formed)


def test_embeddings_tied_to_the_outputs(
    randomised: Any, close: Any, jacobian: Any, kernel: Any, written: Any
) -> None:
    tokens = torch.randint(7, (6, 4), generator=generator(5))
    tied = written(lambda m, x: F.linear(m.inner[0](x).tanh().mean(1), m.inner[0].weight), nn.Embedding(7, 3))
    plain = nn.Sequential(nn.Embedding(7, 3, padding_idx=2), nn.Tanh(), *head(12))
    few = written(lambda m, x: m.inner[1](m.inner[0](x[:, 0]).tanh()), nn.Embedding(7, 30), nn.Linear(30, 2))
    for model in map(randomised, (tied, plain, few)):
        rows = jacobian(model, tokens)
        close(ntk(model, tokens).values, kernel(rows, rows))
