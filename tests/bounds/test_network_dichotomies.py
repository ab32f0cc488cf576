"""What small networks realise: random networks never leave the list, and often fill it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from torchstone.bounds.dichotomies import all_labellings, linear_dichotomies
from torchstone.bounds.growth import sign_change_growth
from torchstone.bounds.network_dichotomies import (
    relu_network_labellings,
    relu_network_realises,
    threshold_network_labellings,
)
from torchstone.errors import SettingError


def sampled(
    x: Tensor, hidden: int, threshold: bool, seed: int, draws: int = 60_000
) -> set[tuple[float, ...]]:
    """Labellings by random networks of several scales."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    w = draw(draws, hidden, x.shape[1])
    mix = torch.softmax(4 * draw(draws, hidden, len(x)), dim=2)  # hyperplanes that pass among the points
    before = torch.einsum("kjd,nd->kjn", w, x) - torch.einsum("kjd,kjn,nd->kj", w, mix, x)[:, :, None]
    units = before.sign() if threshold else before.relu()
    spread = torch.rand(draws, 1, generator=generator, dtype=torch.float64) ** 3 * 6
    outputs = torch.einsum("kj,kjn->kn", draw(draws, hidden), units) + spread * draw(draws, 1)
    return {tuple(row) for row in torch.unique(outputs.sign(), dim=0).tolist() if 0.0 not in row}


def as_set(rows: Tensor) -> set[tuple[float, ...]]:
    listed = [tuple(row) for row in rows.tolist()]
    assert len(set(listed)) == len(listed)
    return set(listed)


@pytest.mark.parametrize("hidden", [1, 2])
def test_threshold_networks_against_random_ones(hidden: int) -> None:
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    listed = as_set(threshold_network_labellings(x, hidden))
    assert sampled(x, hidden, True, seed=2) == listed
    if hidden == 1:
        assert listed == as_set(linear_dichotomies(x))


def test_threshold_networks_on_the_line_change_sign_once_a_unit() -> None:
    x = torch.arange(7.0)[:, None]
    for hidden in (1, 2, 3):
        assert len(threshold_network_labellings(x, hidden)) == sign_change_growth(7, hidden)


@pytest.mark.parametrize(("hidden", "n"), [(1, 5), (2, 4)])
def test_relu_networks_against_random_ones(hidden: int, n: int) -> None:
    x = torch.randn(n, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    listed = as_set(relu_network_labellings(x, hidden))
    assert sampled(x, hidden, False, seed=4) == listed
    assert all(tuple(-one for one in labels) in listed for labels in listed)
    for y in all_labellings(n):
        if y[0] < 0:  # its negative comes too
            continue
        assert relu_network_realises(x, y, hidden) == (tuple(y.tolist()) in listed)


def test_relu_networks_on_the_line_need_three_units_for_one_change_more_than_units() -> None:
    alternating = lambda n: torch.tensor([(-1.0) ** i for i in range(n)])
    x = torch.tensor([-2.0, -1.1, 0.0, 0.9, 2.0])[:, None]
    for units, changes in {0: 0, 1: 1, 2: 2, 3: 4}.items():
        assert relu_network_realises(x[: changes + 1], alternating(changes + 1), units)
        if changes < 4:  # more changes hold fewer of them, so that the next number is enough
            assert not relu_network_realises(x[: changes + 2], alternating(changes + 2), units)


def test_bad_inputs_are_refused() -> None:
    x = torch.arange(3.0)[:, None]
    with pytest.raises(SettingError, match="up to 4 hidden units; got 5"):
        threshold_network_labellings(x, 5)
    with pytest.raises(SettingError, match="hidden must be a whole number of at least 0"):
        relu_network_realises(x, torch.ones(3), -1)
    with pytest.raises(SettingError, match="-1 or 1"):
        relu_network_realises(x, torch.zeros(3), 1)
