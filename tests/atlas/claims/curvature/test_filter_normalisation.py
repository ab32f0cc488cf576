"""Rescaled twins: the same plane with filter normalisation, another without."""

import pytest
import torch

from torchstone.atlas import Scale
from torchstone.atlas.claims.curvature import filter_normalisation
from torchstone.atlas.conformance import ClaimConformance


class TestFilterNormalisation(ClaimConformance):
    id = "filter_normalisation"

    @pytest.mark.parametrize("c", ["0.1", "10"])
    def test_the_planes_are_identical(self, c):
        assert self.measured(f"difference of the planes, c = {c}") <= 1e-6
        assert self.measured(f"difference of the outputs, c = {c}") <= 1e-10

    def test_without_normalisation_they_are_not(self):
        evidence = filter_normalisation.counterexample(Scale.QUICK, torch.Generator().manual_seed(0))
        differences = {check.name: check.measured for check in evidence.refuted}
        assert set(differences) == {f"difference of the planes, c = {c}" for c in ("0.1", "10")}
        assert min(differences.values()) > 0.1
