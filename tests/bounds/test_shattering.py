"""Dichotomies by linear programmes against Cover's counts, linear algebra and brute force; VC dimensions that are known."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from torchstone.bounds.dichotomies import all_labellings, linear_dichotomies, linear_separator, log_count
from torchstone.bounds.growth import cover_count, sauer_sum, separable_fraction
from torchstone.bounds.shattering import is_shattered, shatters, shatters_linear, vc_dimension
from torchstone.errors import NumericalError, SettingError


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def test_share_of_separable_labellings_is_covers() -> None:
    # 12 points in 5 dimensions, no bias: 562/2048 = 0.2744.
    generator, draws = seeded(1), 400
    hits = 0
    for _ in range(draws):
        x = torch.randn(12, 5, generator=generator, dtype=torch.float64)
        y = 2.0 * torch.randint(2, (12,), generator=generator) - 1
        w = linear_separator(x, y, bias=False)
        hits += w is not None
        assert w is None or bool((y * (x @ w) > 0).all())
    expected = separable_fraction(12, 5)
    assert abs(hits / draws - expected) < 3 * math.sqrt(expected * (1 - expected) / draws)


@pytest.mark.parametrize(
    ("n", "d", "bias"), [(9, 3, False), (8, 2, True), (7, 1, True), (5, 6, False), (1, 1, False)]
)
def test_dichotomies_of_points_in_general_position_are_covers_count(n: int, d: int, bias: bool) -> None:
    x = normal(n, d, seed=10 * n + d)
    rows = linear_dichotomies(x, bias)
    assert len(torch.unique(rows, dim=0)) == len(rows) == cover_count(n, d + bias)
    # Complement: exactly the other labellings have no separator.
    listed = set(map(tuple, rows.tolist()))
    if n < 9:
        for y in all_labellings(n):
            assert (tuple(y.tolist()) in listed) == (linear_separator(x, y, bias) is not None)


def test_special_positions_have_fewer() -> None:
    line = torch.stack([torch.arange(6.0), 2 * torch.arange(6.0)], dim=1)
    assert len(linear_dichotomies(line)) == 12 < cover_count(6, 3)  # points on a line: thresholds only
    twins = torch.tensor([[1.0, 2.0], [1.0, 2.0], [3.0, -1.0]])
    rows = linear_dichotomies(twins, bias=False)
    assert len(rows) == 4
    assert bool((rows[:, 0] == rows[:, 1]).all())
    grid = torch.cartesian_prod(torch.arange(3.0), torch.arange(3.0))
    brute = {tuple(y.tolist()) for y in all_labellings(9) if linear_separator(grid, y) is not None}
    assert {tuple(row) for row in linear_dichotomies(grid).tolist()} == brute
    assert len(linear_dichotomies(torch.zeros(2, 3), bias=False)) == 0  # hyperplanes pass through the origin
    assert len(linear_dichotomies(torch.zeros(2, 3), bias=True)) == 2


def test_threshold_functions_of_bits() -> None:
    assert [len(linear_dichotomies(all_labellings(k))) for k in (1, 2, 3)] == [4, 14, 104]


@pytest.mark.parametrize("scale", [1e-150, 1e-6, 1e6, 1e150])
def test_scale_does_not_matter_without_a_bias(scale: float) -> None:
    x = normal(6, 4, seed=2)
    stretched = x * torch.logspace(-6, 6, 6, dtype=torch.float64)[:, None] * scale
    for y in all_labellings(6)[::5]:
        both = [linear_separator(each, y, bias=False) is None for each in (x, stretched)]
        assert both[0] == both[1]


def test_a_narrow_gap_is_found() -> None:
    x = torch.tensor([[0.5], [0.5 + 1e-5]], dtype=torch.float64)
    assert linear_separator(x, torch.tensor([-1, 1])) is not None
    assert linear_separator(x - x, torch.tensor([-1, 1])) is None


@pytest.mark.parametrize("bias", [False, True])
def test_hyperplanes_shatter_exactly_the_independent_points(bias: bool) -> None:
    for n, d, seed in itertools.product(range(1, 6), (1, 2, 3), (0, 1)):
        x = normal(n, d, seed=seed)
        if seed and n > 1:
            x[-1] = x[0] + (0 if n == 2 else 0.3 * (x[1] - x[0]))  # affinely, not always linearly, dependent
        extended = torch.cat([x, torch.ones(n, 1, dtype=torch.float64)], dim=1) if bias else x
        independent = int(torch.linalg.matrix_rank(extended)) == n
        assert shatters_linear(x, bias) == independent


def test_vc_dimension_of_half_spaces_is_d_plus_1() -> None:
    for d in (1, 2, 3):
        found = vc_dimension(linear_dichotomies(normal(d + 4, d, seed=d)))
        assert found.dimension == len(found.shattered) == d + 1
        assert found.labellings <= sauer_sum(d + 4, d + 1)


def test_vc_dimension_by_brute_force_over_all_subsets() -> None:
    generator = seeded(3)
    for members in (1, 2, 3, 7, 20, 60):
        rows = torch.randn(members, 7, generator=generator).sign()
        subsets = [s for k in range(8) for s in itertools.combinations(range(7), k)]
        distinct = lambda s, rows=rows: len({tuple(row[list(s)].tolist()) for row in rows})
        largest = max(len(s) for s in subsets if distinct(s) == 2 ** len(s))
        found = vc_dimension(rows)
        assert found.dimension == largest
        assert distinct(found.shattered) == 2**largest
        assert (
            found.labellings == distinct(range(7)) <= sauer_sum(7, largest)
        )  # Sauer, Shelah, Vapnik, Chervonenkis
        assert log_count(rows) == pytest.approx(math.log(found.labellings))


def test_known_dimensions_of_classes_on_the_line() -> None:
    t = torch.arange(8)
    intervals = torch.stack([((t >= a) & (t < b)).long() * 2 - 1 for a in range(9) for b in range(a, 9)])
    assert vc_dimension(intervals).dimension == 2
    unions = torch.unique(torch.maximum(intervals[:, None], intervals[None]).flatten(0, 1), dim=0)
    assert vc_dimension(unions).dimension == 4
    thresholds = torch.stack([(t >= a).long() * 2 - 1 for a in range(9)])
    assert vc_dimension(thresholds).dimension == 1
    frequencies = torch.linspace(0.01, 60, 20_000, dtype=torch.float64)
    sines = torch.sin(frequencies[:, None] * (2.0 ** torch.arange(5))).sign()
    assert (
        vc_dimension(sines[(sines != 0).all(dim=1)]).dimension == 5
    )  # one parameter, as many points as you like


def test_shattering_needs_every_labelling() -> None:
    rows = all_labellings(4)
    assert is_shattered(torch.cat([rows, rows]))
    assert not is_shattered(rows[1:])
    asked = []
    assert shatters(lambda y: asked.append(y) is None, 3)
    assert len({tuple(y.tolist()) for y in asked} | {tuple((-y).tolist()) for y in asked}) == 8
    assert not shatters(lambda y: bool(y.sum() > -3), 3, symmetric=False)


def test_bad_inputs_are_refused() -> None:
    x = normal(3, 2, seed=0)
    with pytest.raises(SettingError, match=r"-1 or 1.*values \[0, 1\]"):
        linear_separator(x, torch.tensor([0, 1, 1]))
    with pytest.raises(SettingError, match="one for each of 3 points"):
        linear_separator(x, torch.ones(2))
    with pytest.raises(NumericalError, match="Points must be finite"):
        linear_dichotomies(x * math.inf)
    with pytest.raises(SettingError, match=r"shape \(n, d\)"):
        linear_dichotomies(x[0])
    with pytest.raises(SettingError, match="lists at most most=10 labellings"):
        linear_dichotomies(normal(9, 3, seed=0), most=10)
    with pytest.raises(SettingError, match="number of points"):
        linear_dichotomies(x[:0])
    with pytest.raises(SettingError, match="up to 20 points"):
        all_labellings(21)
    with pytest.raises(SettingError, match="at least one of each"):
        vc_dimension(torch.ones(0, 3))
    with pytest.raises(SettingError, match="-1 or 1"):
        is_shattered(torch.tensor([[0.5, 1.0]]))
