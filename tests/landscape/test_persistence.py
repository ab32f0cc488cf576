"""Basins against components that SciPy labels level by level, and against derived saddles."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from torchstone.errors import SettingError
from torchstone.landscape import basins, sublevel_components

label: Any = ndimage.label  # its stubs give one number


def test_two_minima_are_two_components() -> None:
    """f = (x^2 - 1)^2 + 0.2 x + y^2: minima near (-1, 0) and (1, 0), the saddle between them on the x axis."""
    x = torch.linspace(-2, 2, 401, dtype=torch.float64)
    y = torch.linspace(-1, 1, 51, dtype=torch.float64)
    along = lambda t: (t**2 - 1) ** 2 + 0.2 * t
    found = basins(along(x)[None] + y.square()[:, None], at_least=1e-6)
    assert len(found) == 2
    low, saddle, high = sorted(np.roots([4, 0, -4, 0.2]).real)
    deepest, other = found
    assert deepest.persistence == math.inf
    assert deepest.birth == pytest.approx(along(low), abs=1e-3)
    assert other.birth == pytest.approx(along(high), abs=1e-3)
    assert other.persistence == pytest.approx(along(saddle) - along(high), abs=1e-3)
    assert other.saddle[0] == 25
    assert x[other.saddle[1]] == pytest.approx(saddle, abs=0.01)
    assert other.parent == 0


@pytest.mark.parametrize("shape", [(60,), (9, 11), (4, 5, 6)])
@pytest.mark.parametrize("ties", [False, True])
def test_components_at_every_level_are_those_that_scipy_labels(shape: tuple[int, ...], ties: bool) -> None:
    generator = torch.Generator().manual_seed(len(shape))
    values = torch.rand(shape, generator=generator, dtype=torch.float64)
    if ties:
        values = (4 * values).floor()
    for level in values.unique().tolist():
        _, count = label((values <= level).numpy(), structure=np.ones((3,) * len(shape)))
        assert sublevel_components(values, level) == count


def test_a_merge_tree_names_whom_each_basin_joins() -> None:
    found = basins(torch.tensor([2.0, 9.0, 0.0, 5.0, 1.0, 4.0, 3.0]))
    assert [(basin.birth, basin.death, basin.parent) for basin in found] == [
        (0.0, math.inf, -1),
        (2.0, 9.0, 0),
        (1.0, 5.0, 0),
        (3.0, 4.0, 2),
    ]


def test_plateaus_have_one_basin_and_missing_values_none() -> None:
    assert len(basins(torch.ones(5, 5))) == 1
    split = torch.tensor([1.0, torch.nan, 2.0, torch.inf, 3.0])
    assert [basin.persistence for basin in basins(split)] == [math.inf] * 3
    assert sublevel_components(torch.ones(3), 0.5) == 0
    with pytest.raises(SettingError, match="at least one finite value"):
        basins(torch.full((3,), torch.nan))
