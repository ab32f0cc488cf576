"""Exact training of tiny ReLU networks: the gates, and the translation of sets on families drawn at random."""

import itertools

import numpy as np
import pytest
import torch

from torchstone.approximation import exact_relu_fit, find_split, pattern_count, splitting_data
from torchstone.atlas.claims.curvature import exact_erm_of_relu_networks as module
from torchstone.atlas.conformance import ClaimConformance


class TestExactErmOfReluNetworks(ClaimConformance):
    id = "exact_erm_of_relu_networks"

    def test_counts_are_exact(self):
        assert self.measured("largest difference of a count of patterns from 2 sum_{i<=d} C(n-1, i)") == 0

    def test_no_descent_of_500_on_20_instances_gets_below_the_exact_minimum(self):
        assert (module.INSTANCES, module.EXAMPLES, module.DIMENSION, module.RESTARTS) == (20, 8, 2, 500)
        assert self.measured("largest excess of the exact minimum over the best of 500 descents") <= 1e-12
        assert self.measured("largest violation of the optimality conditions") <= 1e-9

    def test_sets_are_decided_rightly(self):
        assert self.measured("largest smallest error of two units where the sets can be split") <= 1e-18
        assert self.measured("smallest smallest error of two units where they cannot") > 1e-3


def test_the_formula_counts_dichotomies() -> None:
    """Cover's numbers: all 2^n up to n = d + 1, then one fewer pair, and 2n on a line."""
    assert [pattern_count(n, 3) for n in (1, 2, 3, 4)] == [2, 4, 8, 16]
    assert pattern_count(5, 3) == 2**5 - 2
    assert [pattern_count(n, 1) for n in (1, 5, 9)] == [2, 10, 18]


@pytest.mark.parametrize("seed", range(4))
def test_random_families_over_four_elements(seed: int) -> None:
    """Split or not by trying all colourings, against two units trained exactly."""
    possible = [one for size in (2, 3) for one in itertools.combinations(range(4), size)]
    chosen = np.random.default_rng(seed).choice(len(possible), size=4, replace=False)
    sets = [possible[index] for index in chosen]
    loss = exact_relu_fit(*splitting_data(4, sets), 2).loss
    assert (loss < 1e-18) == (find_split(4, sets) is not None), (sets, loss)
    assert loss < 1e-18 or loss > 1e-3


def test_descent_descends() -> None:
    """On data that one unit fits, some of the restarts reach zero."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 8, 2, generator=generator, dtype=torch.float64)
    y = torch.relu(x.sum(2) + 0.5) * torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    reached = module.descend(x, y, 2000, generator)
    assert reached.shape == (2, 500)
    assert float(reached.min(1).values.max()) < 1e-12
