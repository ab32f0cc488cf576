"""Rademacher complexities between Khintchine and Jensen on five data sets, Massart, and the risk bound's coverage."""

import math

import pytest
import torch

from torchstone.atlas.claims.risk import rademacher_brackets as module
from torchstone.atlas.conformance import ClaimConformance


class TestRademacherBrackets(ClaimConformance):
    id = "rademacher_brackets"

    def test_five_data_sets_between_khintchine_and_jensen(self):
        names = list(module.data_sets(torch.Generator().manual_seed(0)))
        assert len(names) == 5
        for name in names:
            assert self.measured(f"complexity, {name}") > 0

    def test_both_ends_are_attained(self):
        n, b = module.EXAMPLES, module.RADIUS
        assert self.measured("complexity, orthogonal") == pytest.approx(b * math.sqrt(n) / n, rel=1e-9)
        # |X|_F = 10 sqrt 2: the lower end is 10 B / n, and the truth E|10 (s_1 + s_2)| = 10.
        assert self.measured("complexity, two equal inputs") == pytest.approx(10 * b / n, rel=0.05)

    def test_massart_and_the_risk_bound_are_kept(self):
        assert 0.4 < self.measured("largest complexity / Massart's bound, 11 examples") <= 1
        assert self.measured("share of samples above the risk bound, delta = 0.1") <= 0.1
