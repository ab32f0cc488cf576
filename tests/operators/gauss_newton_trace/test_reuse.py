"""Traces of parameters that enter the network several times: their gradients add up before they are squared."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

Written = Callable[..., nn.Module]
Build = Callable[[Written], nn.Module]
Check = Callable[..., None]


def head(width: int) -> list[nn.Module]:
    return [nn.Flatten(), nn.Linear(width, 3)]


NETWORKS: dict[str, tuple[Build, tuple[int, ...]]] = {
    "a layer called three times": (
        lambda written: written(
            lambda m, x: m.inner[1](
                torch.tanh(m.inner[0](torch.tanh(m.inner[0](torch.tanh(m.inner[0](x))))))
            ),
            nn.Linear(4, 4),
            nn.Linear(4, 3),
        ),
        (4,),
    ),
    "a convolution called twice": (
        lambda written: written(
            lambda m, x: m.inner[1](m.inner[0](m.inner[0](x).tanh())),
            nn.Conv2d(2, 2, 3, padding=1),
            nn.Sequential(*head(32)),
        ),
        (2, 4, 4),
    ),
    "a square weight and its transpose": (
        lambda written: written(
            lambda m, x: m.inner[0](torch.tanh(x @ m.w) @ m.w.T), nn.Linear(4, 3), w=(4, 4)
        ),
        (4,),
    ),
    "a bias that is also a scale": (
        lambda written: written(lambda m, x: m.inner[0](x * m.b + m.b), nn.Linear(4, 3), b=(4,)),
        (4,),
    ),
    "cross attention": (
        lambda written: written(
            lambda m, x: m.inner[1](m.inner[0](x, x.flip(1), x.flip(1), need_weights=False)[0].mean(1)),
            nn.MultiheadAttention(4, 2, batch_first=True),
            nn.Linear(4, 3),
        ),
        (3, 4),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_traces_are_those_of_single_examples(name: str, task: str, check: Check, written: Written) -> None:
    make, shape = NETWORKS[name]
    check(make(written), shape, task=task)
