"""Covers and packings on 20 point sets, the ball's volume bound, and Maurey's lemma at its promise."""

import torch

from torchstone.atlas import Scale
from torchstone.atlas.claims.risk import covers_and_packings as module
from torchstone.atlas.conformance import ClaimConformance


class TestCoversAndPackings(ClaimConformance):
    id = "covers_and_packings"

    def test_20_point_sets(self):
        assert module.SETS == 20
        assert self.measured("sets with P(2 eps) > N(eps)") == 0
        assert self.measured("sets with N(eps) > P(eps)") == 0

    def test_greedy_covers_of_the_ball(self):
        for eps in module.RADII:
            assert 1 <= self.measured(f"greedy cover of the ball, eps = {eps}") <= (1 + 2 / eps) ** 3

    def test_both_parts_of_the_counterexample_fail(self):
        evidence = module.counterexample(Scale.QUICK, torch.Generator().manual_seed(0))
        names = [check.name for check in evidence.refuted]
        assert "sets with P(1.2 eps) > N(eps)" in names
        assert "error of the sparse product / eps, width 8" in names
