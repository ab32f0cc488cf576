"""Traces where examples do not lie along the first axis inside the network."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import nn

Written = Callable[..., nn.Module]
Build = Callable[[Written], nn.Module]
Check = Callable[..., None]


def head(width: int) -> list[nn.Module]:
    return [nn.Flatten(), nn.Linear(width, 3)]


NETWORKS: dict[str, tuple[Build, tuple[int, ...]]] = {
    "recurrent, time first": (
        lambda written: written(
            lambda m, x: m.inner[1](m.inner[0](x.transpose(0, 1))[0][-1]), nn.LSTM(3, 4), nn.Linear(4, 3)
        ),
        (5, 3),
    ),
    "as many steps as examples": (
        lambda written: written(
            lambda m, x: m.inner[1](m.inner[0](x.transpose(0, 1))[0].sum(0)), nn.RNN(3, 4), nn.Linear(4, 3)
        ),
        (4, 3),
    ),
    "dense layer, time first": (
        lambda written: written(
            lambda m, x: m.inner[1](m.inner[0](x.transpose(0, 1)).tanh().mean(0)),
            nn.Linear(3, 4),
            nn.Linear(4, 3),
        ),
        (4, 3),
    ),
    "transformer, time first": (
        lambda written: written(
            lambda m, x: m.inner[1](m.inner[0](x.transpose(0, 1)).mean(0)),
            nn.TransformerEncoderLayer(4, 2, 6),
            nn.Linear(4, 3),
        ),
        (4, 4),
    ),
    "frames folded into the batch": (
        lambda written: written(
            lambda m, x: m.inner[1](m.inner[0](x.flatten(0, 1)).unflatten(0, x.shape[:2]).mean(1)),
            nn.Conv2d(1, 2, 2),
            nn.Sequential(*head(8)),
        ),
        (3, 1, 3, 3),
    ),
    "windows, examples innermost": (
        lambda written: written(
            lambda m, x: m.inner[1](
                m.inner[0](x.transpose(0, 1).flatten(0, 1)).tanh().unflatten(0, (3, -1)).mean(0)
            ),
            nn.Linear(4, 5),
            nn.Linear(5, 3),
        ),
        (3, 4),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_traces_are_those_of_single_examples(name: str, task: str, check: Check, written: Written) -> None:
    make, shape = NETWORKS[name]
    check(make(written), shape, task=task)
