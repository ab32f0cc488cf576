"""Fat shattering: points that are shattered at the bound exactly, and Bartlett's bound by its formula."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from torchstone.bounds.fat_shattering import fat_shattering_bound, l1_fat_shattering, linear_fat_shattering
from torchstone.bounds.weight_size import log_classes
from torchstone.errors import NumericalError, SettingError


@pytest.mark.parametrize("n", [1, 4, 9])
def test_orthogonal_points_are_shattered_at_the_linear_bound(n: int) -> None:
    """Points R e_i, weights B sigma / sqrt n: margin B R / sqrt n for every sign vector, and not more."""
    reach, size = 3.0, 2.0
    margin = size * reach / math.sqrt(n)
    points = reach * torch.eye(n, dtype=torch.float64)
    for labels in itertools.product([-1.0, 1.0], repeat=n):
        sigma = torch.tensor(labels, dtype=torch.float64)
        weight = size * sigma / math.sqrt(n)
        assert float((sigma * (points @ weight)).min()) == pytest.approx(margin)
    assert linear_fat_shattering(size, reach, margin) == n
    assert linear_fat_shattering(size, reach, margin * 1.001) == n - 1


@pytest.mark.parametrize("k", [1, 3, 6])
def test_the_l1_bound_is_above_the_sylvester_points(k: int) -> None:
    """The columns of all sign vectors of k points: the ball of radius A shatters them at margin A."""
    assert l1_fat_shattering(norm=2.0, largest_input=1.0, dimensions=2**k, depth=1, gamma=2.0) >= k


def test_formula_and_growth_with_the_weights() -> None:
    expected = 2 * log_classes(20, 3) * (6.0 * 0.5 / 0.1) ** 2
    assert l1_fat_shattering(6.0, 0.5, 20, 3, 0.1) == math.floor(expected)
    assert l1_fat_shattering(12.0, 0.5, 20, 3, 0.2) == math.floor(expected)


def test_bartletts_bound_by_its_formula() -> None:
    n, d, delta = 10**6, 40, 0.05
    margins = torch.linspace(-1, 9, n, dtype=torch.float64)
    bound = fat_shattering_bound(margins, 1.0, d, delta)
    root = math.sqrt(2 / n * (d * math.log(34 * math.e * n / d) * math.log2(578 * n) + math.log(4 / delta)))
    assert bound.empirical == pytest.approx(0.2, abs=1e-5)
    assert bound.value == pytest.approx(bound.empirical + root, rel=1e-9)
    assert not bound.vacuous


def test_it_holds_for_a_share_1_minus_delta_of_samples_where_it_is_not_vacuous() -> None:
    """x of +-1, random labels, f(x) = +-x by empirical risk: every empirical error is below the true one."""
    generator, n, delta, failures = torch.Generator().manual_seed(0), 10**6, 0.5, 0
    dimension = linear_fat_shattering(1.0, 1.0, 1.0 / 16)
    for _ in range(40):
        agree = int(torch.binomial(torch.tensor(float(n)), torch.tensor(0.5), generator=generator))
        margins = torch.ones(n)
        margins[: min(agree, n - agree)] = -1.0
        bound = fat_shattering_bound(margins, 1.0, dimension, delta)
        assert bound.empirical < 0.5
        failures += bound.value < 0.5
        assert bound.value < 1
    assert failures <= delta * 40


def test_vacuous_values_stay_increasing_in_the_dimension() -> None:
    values = [fat_shattering_bound(torch.ones(100), 0.5, d).value for d in (10, 10**3, 10**5, 10**7)]
    assert all(value > 1 for value in values)
    assert values == sorted(values)


def test_mistakes() -> None:
    with pytest.raises(SettingError, match="gamma"):
        linear_fat_shattering(1.0, 1.0, 0.0)
    with pytest.raises(SettingError, match="finite"):
        l1_fat_shattering(1e200, 1.0, 2, 1, 1e-10)
    with pytest.raises(SettingError, match="margins"):
        fat_shattering_bound(torch.ones(0), 1.0, 1)
    with pytest.raises(SettingError, match="fat_dimension"):
        fat_shattering_bound(torch.ones(3), 1.0, 0)
    with pytest.raises(NumericalError, match="NaN"):
        fat_shattering_bound(torch.tensor([math.nan]), 1.0, 1)
