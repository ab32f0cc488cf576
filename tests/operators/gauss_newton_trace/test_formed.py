"""Uses without a rule of their own have their gradients formed, and say so."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

Written = Callable[..., nn.Module]
Build = Callable[[Written], nn.Module]
Check = Callable[..., None]


def head(width: int) -> list[nn.Module]:
    return [nn.Flatten(), nn.Linear(width, 3)]


FALLBACK: dict[str, tuple[Build, tuple[int, ...], tuple[str, ...]]] = {
    "transposed convolution": (
        lambda _: nn.Sequential(nn.ConvTranspose1d(2, 3, 3), *head(18)),
        (2, 4),
        ("0.weight",),
    ),
    "bilinear": (
        lambda written: written(lambda m, x: m.inner[0](x, x), nn.Bilinear(4, 4, 3)),
        (4,),
        ("inner.0.weight",),
    ),
    "weight norm": (
        lambda _: nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)),
        (4,),
        ("parametrizations.weight.original0", "parametrizations.weight.original1"),
    ),
    "low-rank adapter": (
        lambda written: written(lambda m, x: F.linear(x, m.a @ m.b), a=(3, 2), b=(2, 4)),
        (4,),
        ("a", "b"),
    ),
}


@pytest.mark.parametrize("name", FALLBACK)
def test_other_uses_have_their_gradients_formed(name: str, check: Check, written: Written) -> None:
    make, shape, formed = FALLBACK[name]
    check(make(written), shape, formed=formed)


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_a_pruned_layer(task: str, check: Check, written: Written) -> None:
    model = written(lambda m, x: F.linear(x, m.w * torch.eye(3, 4, dtype=x.dtype), m.b), w=(3, 4), b=(3,))
    check(model, (4,), task=task, formed=("w",))
