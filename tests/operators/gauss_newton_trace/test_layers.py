"""Traces of the parameters of layers, each against one example at a time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import nn

Check = Callable[..., None]


def head(width: int) -> list[nn.Module]:
    return [nn.Flatten(), nn.Linear(width, 3)]


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3, bias=False)), (4,)),
    "dense layer on sequences": (
        lambda: nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 2, bias=False), *head(6)),
        (3, 4),
    ),
    "as many positions as examples": (
        lambda: nn.Sequential(nn.Linear(3, 5), nn.ReLU(), *head(20)),
        (4, 3),
    ),
    "few positions, wide layers": (
        lambda: nn.Sequential(nn.Linear(30, 40), nn.ReLU(), nn.Linear(40, 20), *head(40)),
        (2, 30),
    ),
    "many positions, narrow layers": (lambda: nn.Sequential(nn.Linear(2, 2), nn.Tanh(), *head(80)), (40, 2)),
    "convolution": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(3, 2, 3), *head(18)
        ),
        (2, 5, 5),
    ),
    "stride, dilation, padding, groups": (
        lambda: nn.Sequential(
            nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(2, 1), dilation=(1, 2), groups=2),
            nn.Tanh(),
            nn.Conv2d(6, 6, 3, groups=6, bias=False, padding="same"),
            *head(144),
        ),
        (4, 5, 6),
    ),
    "even kernel, same padding": (
        lambda: nn.Sequential(nn.Conv1d(2, 3, 4, padding="same"), *head(18)),
        (2, 6),
    ),
    "circular padding": (
        lambda: nn.Sequential(nn.Conv1d(2, 3, 3, padding=1, padding_mode="circular"), *head(18)),
        (2, 6),
    ),
    "convolution in three dimensions": (
        lambda: nn.Sequential(nn.Conv3d(2, 3, (2, 3, 1), stride=(1, 2, 1), padding=(0, 1, 0)), *head(36)),
        (2, 3, 4, 3),
    ),
    "batch norm": (
        lambda: nn.Sequential(nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.ReLU(), *head(27), nn.BatchNorm1d(3)),
        (1, 4, 4),
    ),
    "layer norm": (
        lambda: nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.LayerNorm([3, 6]), *head(18)),
        (3, 4),
    ),
    "group norm": (lambda: nn.Sequential(nn.Conv2d(1, 4, 2), nn.GroupNorm(2, 4), *head(36)), (1, 4, 4)),
    "rms norm": (lambda: nn.Sequential(nn.Linear(4, 6), nn.RMSNorm(6), *head(18)), (3, 4)),
    "prelu": (lambda: nn.Sequential(nn.Linear(4, 6), nn.PReLU(6), nn.Linear(6, 3), nn.PReLU()), (4,)),
    "one output": (lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1)), (4,)),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_traces_are_those_of_single_examples(name: str, task: str, check: Check) -> None:
    make, shape = LAYERS[name]
    check(make(), shape, task=task)
