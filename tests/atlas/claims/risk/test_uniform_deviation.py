"""Uniform deviation: no violation in 1000 resamples, the union bound's coverage, and the factor 2."""

import pytest
import torch

from torchstone.atlas import Scale
from torchstone.atlas.claims.risk import uniform_deviation as module
from torchstone.atlas.conformance import ClaimConformance

CLASSES = ["thresholds", "two opposites", "independent coins"]


class TestUniformDeviation(ClaimConformance):
    id = "uniform_deviation"

    @pytest.mark.parametrize("name", CLASSES)
    def test_no_violation_in_1000_resamples(self, name):
        assert module.RESAMPLES == 1000
        assert self.measured(f"samples with excess risk above 2 sup, {name}") == 0

    @pytest.mark.parametrize("name", CLASSES)
    def test_the_union_bound_covers(self, name):
        assert self.measured(f"share of samples within the union bound, {name}") >= 1 - module.DELTA

    def test_the_factor_two_is_needed(self):
        assert 1.5 < self.measured("largest excess / sup, two opposites") <= 2

    def test_the_counterexample_fails_for_its_reason(self):
        evidence = module.counterexample(Scale.QUICK, torch.Generator().manual_seed(0))
        assert "samples with excess risk above 1 sup, two opposites" in [c.name for c in evidence.refuted]


def test_the_band_is_a_law_with_its_bayes_risk():
    law = module.band()
    assert float(law.sum()) == pytest.approx(1)
    halves = law.view(2, -1)
    assert float(halves.amin(dim=0).sum()) == pytest.approx(module.FLIPPED)
