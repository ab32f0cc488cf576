"""Error bars over networks and examples together: coverage by simulation, and each part alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from torchstone.bounds.crossed import CrossedError, crossed_jackknife, crossed_mean
from torchstone.errors import NumericalError, SettingError


def table(source: torch.Generator, members: int, count: int, sizes: tuple[float, float, float]) -> Tensor:
    draw = lambda *shape: torch.randn(*shape, generator=source, dtype=torch.float64)
    seeds, examples, rest = sizes
    return seeds * draw(members, 1) + examples * draw(1, count) + rest * draw(members, count)


@pytest.mark.parametrize("sizes", [(1.0, 0.0, 0.5), (0.0, 1.0, 1.0), (0.3, 2.0, 1.0), (0.0, 0.0, 1.0)])
def test_the_interval_covers_further_seeds_and_further_examples(sizes: tuple[float, float, float]) -> None:
    source = torch.Generator().manual_seed(0)
    hits = [0.0 in crossed_mean(table(source, 6, 50, sizes))[0] for _ in range(1500)]
    assert 0.935 <= sum(hits) / len(hits) <= 0.995


def test_neither_draw_alone_would_cover() -> None:
    source = torch.Generator().manual_seed(1)
    alone = {"groups": 0, "examples": 0}
    for _ in range(500):
        values = table(source, 6, 50, (0.3, 2.0, 1.0))
        _, error = crossed_mean(values)
        for name in alone:
            alone[name] += abs(float(values.mean())) < 1.96 * getattr(error, name)
    assert alone["groups"] < 0.8 * 500
    assert alone["examples"] < 0.94 * 500


def test_the_variance_of_the_mean_is_unbiased() -> None:
    source = torch.Generator().manual_seed(2)
    sizes = (0.5, 1.0, 2.0)
    exact = sizes[0] ** 2 / 5 + sizes[1] ** 2 / 20 + sizes[2] ** 2 / 100
    found = []
    for _ in range(1500):
        _, e = crossed_mean(table(source, 5, 20, sizes))
        found.append(e.groups**2 + e.examples**2 - e.interaction**2)
    values = torch.tensor(found)
    assert abs(float(values.mean()) - exact) < 3 * float(values.std()) / len(found) ** 0.5


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = table(torch.Generator().manual_seed(3), 7, 30, (1.0, 1.0, 1.0))
    [(mean, error)] = crossed_jackknife(values, lambda some: some.mean(0)[None])
    assert mean == pytest.approx(float(values.mean()))
    assert error.groups == pytest.approx(float(values.mean(1).std()) / math.sqrt(7))
    assert error.examples == pytest.approx(float(values.mean(0).std()) / math.sqrt(30))


def test_degrees_of_freedom_are_those_of_the_larger_part() -> None:
    assert CrossedError(1.0, 0.0, 4, 99).degrees == pytest.approx(4)
    assert CrossedError(0.0, 1.0, 4, 99).degrees == pytest.approx(99)
    assert CrossedError(0.0, 0.0, 4, 99).degrees == math.inf
    assert CrossedError(0.0, 0.0, 4, 99).interval(2.0).width == 0
    assert CrossedError(math.nan, 0.0, 1, 99).interval(2.0).width == math.inf
    assert CrossedError(3.0, 4.0, 4, 99).total == pytest.approx(5)


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (5,), (2, 2, 2)])
def test_too_little_is_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(SettingError, match="at least 2 networks and 2 examples"):
        crossed_mean(torch.zeros(shape))


def test_one_example_has_no_error_bar() -> None:
    with pytest.raises(SettingError, match="at least 2 of them"):
        crossed_jackknife(torch.zeros(3, 1), lambda some: some.mean(0)[None])


def test_values_that_are_not_finite_are_named() -> None:
    with pytest.raises(NumericalError, match="diverged"):
        crossed_mean(torch.tensor([[0.0, math.inf], [0.0, 1.0]]))
