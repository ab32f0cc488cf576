"""The tangent kernel of layers against their Jacobian, also stacked at random."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone.operators import ntk


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def head(width: int) -> list[nn.Module]:
    return [nn.Flatten(), nn.Linear(width, 3)]


def frozen() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    next(model.children()).requires_grad_(False)
    return model


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[str, ...]]] = {
    "mlp": (lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3, bias=False)), (4,), ()),
    "linear": (lambda: nn.Linear(4, 3), (4,), ()),
    "one output": (lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1)), (4,), ()),
    "frozen": (frozen, (4,), ()),
    "few positions, wide layers": (
        lambda: nn.Sequential(nn.Linear(30, 40), nn.ReLU(), nn.Linear(40, 20), *head(40)),
        (2, 30),
        (),
    ),
    "many positions, narrow layers": (
        lambda: nn.Sequential(nn.Linear(2, 2), nn.Tanh(), *head(80)),
        (40, 2),
        (),
    ),
    "convolution": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(3, 2, 3), *head(18)
        ),
        (2, 5, 5),
        (),
    ),
    "few pixels, many channels": (
        lambda: nn.Sequential(nn.Conv2d(2, 40, 3, padding=1), nn.ReLU(), nn.Conv2d(40, 20, 2), *head(20)),
        (2, 2, 2),
        (),
    ),
    "stride, dilation, padding, groups": (
        lambda: nn.Sequential(
            nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(2, 1), dilation=(1, 2), groups=2),
            nn.Tanh(),
            nn.Conv2d(6, 6, 3, groups=6, bias=False, padding="same"),
            *head(144),
        ),
        (4, 5, 6),
        (),
    ),
    "groups with few pixels": (
        lambda: nn.Sequential(nn.Conv2d(8, 40, 2, groups=2), nn.Tanh(), *head(40)),
        (8, 2, 2),
        (),
    ),
    "pointwise on one pixel, grouped": (
        lambda: nn.Sequential(nn.Conv2d(4, 6, 1, groups=2), *head(6)),
        (4, 1, 1),
        (),
    ),
    "batch norm": (
        lambda: nn.Sequential(nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.ReLU(), *head(27), nn.BatchNorm1d(3)),
        (1, 4, 4),
        (),
    ),
    "layer norm": (
        lambda: nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.LayerNorm([3, 6]), *head(18)),
        (3, 4),
        (),
    ),
    "group norm": (lambda: nn.Sequential(nn.Conv2d(1, 4, 2), nn.GroupNorm(2, 4), *head(36)), (1, 4, 4), ()),
    "an output an example and position": (lambda: nn.Conv2d(2, 3, 2), (2, 3, 3), ()),
    "transposed convolution": (
        lambda: nn.Sequential(nn.ConvTranspose1d(2, 3, 3), *head(18)),
        (2, 4),
        ("0.weight",),
    ),
    "weight norm": (
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)),
        (4,),
        ("parametrizations.weight.original0", "parametrizations.weight.original1"),
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_kernels_are_those_of_the_jacobian(name: str, check: Any) -> None:
    make, shape, formed = LAYERS[name]
    check(make(), shape, formed)


@pytest.mark.parametrize("seed", range(12))
def test_random_architectures(seed: int, randomised: Any, close: Any, jacobian: Any, kernel: Any) -> None:
    chance = generator(seed)
    pick = lambda *options: options[int(torch.randint(len(options), (), generator=chance))]
    channels, size = pick(1, 2, 4), pick(4, 5)
    shape, layers = (channels, size, size), []
    for _ in range(pick(1, 2, 3)):
        groups = pick(1, channels)
        grown = groups * pick(1, 2, 5)
        layers.append(
            nn.Conv2d(
                channels,
                grown,
                pick(1, 2, 3),
                padding=1,
                stride=pick(1, 2),
                groups=groups,
                bias=pick(True, False),
            )
        )
        channels = grown
        layers.append(pick(nn.ReLU(), nn.Tanh(), nn.BatchNorm2d(grown), nn.GroupNorm(1, grown), nn.PReLU()))
    model = nn.Sequential(
        *layers,
        pick(nn.Flatten(), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())),
        nn.LazyLinear(pick(1, 3)),
    )
    with torch.random.fork_rng(devices=[]):
        model(torch.zeros(2, *shape))
    model, x = randomised(model), randn(4, *shape, seed=seed)
    found, rows = ntk(model, x), jacobian(model, x)
    assert not found.formed
    close(found.values, kernel(rows, rows))
    close(ntk(model, x, outputs="trace").values, found.values.diagonal(dim1=2, dim2=3).sum(-1))
