"""Where units are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from torchstone.workbench.units import UnitAxis


def after(module: nn.Module, *shape: int) -> UnitAxis:
    axis = UnitAxis()
    axis.see(module, module(torch.zeros(shape)))
    return axis


@pytest.mark.parametrize(
    ("module", "shape", "expected"),
    [
        (nn.Conv1d(3, 5, 1), (2, 3, 7), 1),
        (nn.BatchNorm1d(3), (2, 3, 7), 1),
        (nn.Linear(7, 5), (2, 3, 7), 2),
        (nn.LayerNorm(7), (2, 3, 7), 2),
        (nn.Conv2d(3, 5, 1), (2, 3, 7, 7), 1),
        (nn.Linear(7, 5), (2, 3, 7, 7), 3),
        (nn.Identity(), (2, 3, 7), 2),
        (nn.Identity(), (2, 3, 7, 7), 1),
        (nn.Linear(7, 5), (2, 7), 1),
    ],
)
def test_units_lie_where_the_layer_puts_them(
    module: nn.Module, shape: tuple[int, ...], expected: int
) -> None:
    axis = after(module.eval(), *shape)
    output: Tensor = module(torch.zeros(shape))
    assert axis.of(output) == expected


def test_a_layer_norm_over_whole_maps_and_layers_of_other_rank_change_nothing() -> None:
    axis = after(nn.Conv2d(3, 3, 1), 2, 3, 7, 7)
    axis.see(nn.LayerNorm([3, 7, 7]), torch.zeros(2, 3, 7, 7))
    axis.see(nn.Linear(3, 3), torch.zeros(2, 3))  # squeeze and excitation
    assert axis.of(torch.zeros(2, 3, 7, 7)) == 1
    assert axis.of(torch.zeros(2, 3, 7)) == 2
