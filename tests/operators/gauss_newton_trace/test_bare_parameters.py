"""Traces of parameters that no layer holds, however they enter the network."""

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
    "position embedding": (
        lambda written: written(
            lambda m, x: m.inner[0](x + m.position), nn.Sequential(*head(12)), position=(3, 4)
        ),
        (3, 4),
    ),
    "class token": (
        lambda written: written(
            lambda m, x: m.inner[0](torch.cat([m.token.expand(len(x), 1, 4), x], 1)),
            nn.Sequential(nn.Linear(4, 2), *head(8)),
            token=(1, 1, 4),
        ),
        (3, 4),
    ),
    "scales, shifts and a scalar": (
        lambda written: written(
            lambda m, x: m.inner[0]((m.scale * x - m.shift).tanh() * m.temperature),
            nn.Linear(4, 3),
            scale=(4,),
            shift=(1, 4),
            temperature=(),
        ),
        (4,),
    ),
    "matrix from the left": (lambda written: written(lambda m, x: (m.w @ x.T).T, w=(3, 4)), (4,)),
    "batched matrix from the left": (
        lambda written: written(
            lambda m, x: m.inner[0](torch.matmul(m.w, x)), nn.Sequential(*head(8)), w=(2, 3)
        ),
        (3, 4),
    ),
    "einsum": (
        lambda written: written(
            lambda m, x: m.inner[0](torch.einsum("ntd,dk->ntk", x, m.w)), nn.Sequential(*head(6)), w=(4, 2)
        ),
        (3, 4),
    ),
    "matrix times vector": (
        lambda written: written(lambda m, x: torch.stack([x @ m.v, -(x @ m.v), x[:, 0]], 1), v=(4,)),
        (4,),
    ),
    "one matrix for each of several heads": (
        lambda written: written(
            lambda m, x: m.inner[0](torch.bmm(x.transpose(0, 1), m.w).transpose(0, 1)),
            nn.Sequential(*head(6)),
            w=(3, 4, 2),
        ),
        (3, 4),
    ),
    "rearranged weights": (
        lambda written: written(
            lambda m, x: m.inner[0](
                (x @ m.w.permute(2, 0, 1).reshape(4, 6)).tanh() + x @ m.w.transpose(-1, 0).reshape(4, 6)
            ),
            nn.Linear(6, 3),
            w=(2, 3, 4),
        ),
        (4,),
    ),
    "an unused parameter": (
        lambda written: written(lambda m, x: m.inner[0](x), nn.Linear(4, 3), idle=(2,)),
        (4,),
    ),
    "positions from a parameter that is longer": (
        lambda written: written(
            lambda m, x: m.inner[0]((x + m.p[:, 1:4]).tanh() * m.p[0, -1, 2]),
            nn.Sequential(*head(12)),
            p=(1, 5, 4),
        ),
        (3, 4),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_traces_are_those_of_single_examples(name: str, task: str, check: Check, written: Written) -> None:
    make, shape = NETWORKS[name]
    check(make(written), shape, task=task)
