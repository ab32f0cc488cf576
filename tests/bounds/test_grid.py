"""The grid's cells hold what they should, and their weights sum to at most 1."""

from __future__ import annotations

import math

import pytest

from torchstone.bounds.grid import cell_above, cell_below, log_price
from torchstone.errors import SettingError


@pytest.mark.parametrize("value", [1e-9, 0.3, 1.0, math.exp(0.05), math.exp(0.15), 17.3, 1e40])
def test_cells_are_on_the_safe_side_and_near(value: float) -> None:
    above, below = cell_above(value), cell_below(value)
    assert value <= above.value <= value * math.exp(0.05) * (1 + 1e-9)
    assert value * math.exp(-0.05) * (1 - 1e-9) <= below.value <= value


def test_weights_sum_to_at_most_one() -> None:
    total = sum(math.exp(-log_price(k)) for k in range(-(10**4), 10**4 + 1))
    assert 0.7 < total < 1


def test_zero_and_bad_values() -> None:
    assert cell_above(0.0).value <= 1.1e-12
    with pytest.raises(SettingError, match="value"):
        cell_below(0.0)
    with pytest.raises(SettingError, match="value"):
        cell_above(math.nan)
