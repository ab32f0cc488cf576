"""ReLU networks on the line: the exact trace against the network itself, and sign changes against their bound."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from torchstone.bounds.sign_changes import count_sign_changes, piece_bound, trace_on_line
from torchstone.errors import NumericalError, SettingError

Layers = tuple[list[Tensor], list[Tensor | None]]


def network(widths: tuple[int, ...], seed: int, bias: bool = True) -> Layers:
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    weights = [draw(b, a) for a, b in itertools.pairwise(widths)]
    return weights, [draw(len(w)) if bias else None for w in weights]


def outputs(layers: Layers, x: Tensor) -> Tensor:
    for i, (weight, bias) in enumerate(zip(*layers, strict=True)):
        x = (torch.relu(x) if i else x) @ weight.T + (0 if bias is None else bias)
    return x


@pytest.mark.parametrize("widths", [(1, 4, 1), (1, 6, 5, 2), (3, 7, 7, 7, 1), (2, 1)])
@pytest.mark.parametrize("bias", [True, False])
def test_the_trace_is_the_network(widths: tuple[int, ...], bias: bool) -> None:
    layers = network(widths, seed=sum(widths), bias=bias)
    generator = torch.Generator().manual_seed(0)
    p, u = torch.randn(2, widths[0], generator=generator, dtype=torch.float64)
    line = trace_on_line(*layers, point=p, direction=u)
    t = torch.cat([torch.linspace(-50, 50, 4001, dtype=torch.float64), line.knots, torch.tensor([-1e4, 1e4])])
    torch.testing.assert_close(line.at(t), outputs(layers, p + t[:, None] * u), rtol=1e-9, atol=1e-9)
    assert len(line.knots) <= piece_bound(widths[1:-1]) + 1


@pytest.mark.parametrize("widths", [(3,), (8,), (30,), (4, 4), (3, 5, 2)])
def test_sign_changes_agree_with_a_fine_grid_and_stay_within_the_bound(widths: tuple[int, ...]) -> None:
    t = torch.cat([-torch.logspace(4, -4, 20_000), torch.logspace(-4, 4, 20_000)]).double()[:, None]
    for seed in range(20):
        weights, biases = network((1, *widths, 1), seed)
        values = outputs((weights, biases), t)[:, 0]
        # Move the output so that it changes sign as often as it can, and is 0 at no point of the grid.
        middle = values[t[:, 0].abs() < 3].unique()
        level = (middle[len(middle) // 2] + middle[(len(middle) + 1) // 2 - 1]) / 2 - 1e-7
        last = biases[-1]
        assert last is not None
        biases[-1] = last - level
        exact = count_sign_changes(weights, biases)
        on_grid = int((outputs((weights, biases), t)[:, 0].sign().diff() != 0).sum())
        assert on_grid <= exact <= piece_bound(widths)
        assert exact == on_grid or len(widths) > 1


@pytest.mark.parametrize("units", [3, 4, 7, 40])
def test_a_zigzag_attains_n_plus_1_from_three_units_on(units: int) -> None:
    # Alternating slopes s_0 .. s_N; unit i turns s_(i-1) into s_i. The leftmost slope is minus the sum of the turns of the
    # units open to the left: with the second and third of them, s_0 = s_1 - s_3, which alternating slopes allow.
    slopes = torch.tensor([1.0, -2.0, 1.0, -3.0, *[(-1.0) ** i for i in range(4, units + 1)]]).double()
    gaps = 2 / slopes[1:-1].abs()  # the function goes from 1 to -1 and back between knots
    knots = torch.cat([torch.zeros(1, dtype=torch.float64), gaps.cumsum(0)])
    side = torch.ones(units, dtype=torch.float64)
    side[1:3] = -1
    weights: list[Tensor] = [side[:, None], slopes.diff()[None]]
    heights = outputs((weights, [-side * knots, None]), knots[:, None])[:, 0]
    torch.testing.assert_close(heights - heights[:2].mean(), (-1.0) ** torch.arange(units).double())
    assert (
        count_sign_changes(weights, [-side * knots, -heights[:2].mean()[None]])
        == units + 1
        == piece_bound([units])
    )


def test_one_or_two_units_do_not_attain_it() -> None:
    generator = torch.Generator().manual_seed(5)
    for units in (1, 2):
        most = 0
        for _ in range(400):
            draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
            most = max(most, count_sign_changes([draw(units, 1), draw(1, units)], [draw(units), draw(1)]))
        assert most == units


def test_flat_pieces_and_double_zeros_do_not_count() -> None:
    one = torch.ones(1, 1)
    assert count_sign_changes([one, one], [None, None]) == 0  # relu: zero, then positive
    tent = [torch.ones(3, 1), torch.tensor([[1.0, -2.0, 1.0]])]
    touching = [torch.tensor([1.0, 0.0, -1.0]), torch.tensor([-1.0])]
    assert count_sign_changes(tent, touching) == 0  # -1, up to 0, back to -1
    assert count_sign_changes([torch.zeros(1, 1)], [None]) == 0
    assert count_sign_changes([one], [torch.tensor([5.0])]) == 1


def test_bad_networks_are_refused() -> None:
    with pytest.raises(SettingError, match="that chain"):
        trace_on_line([torch.ones(2, 1), torch.ones(1, 3)], [None, None])
    with pytest.raises(SettingError, match="0 biases"):
        trace_on_line([torch.ones(1, 1)], [])
    with pytest.raises(NumericalError, match="finite weights"):
        trace_on_line([torch.full((1, 1), math.nan)], [None])
    with pytest.raises(SettingError, match="one input and one output; got 2 and 1"):
        count_sign_changes([torch.ones(1, 2)], [None])
    with pytest.raises(SettingError, match="A width must be a whole number"):
        piece_bound([3, 0])
