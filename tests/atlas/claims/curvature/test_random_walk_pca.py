"""Principal components of a random walk, with the numbers of the claim repeated."""

import math

import pytest

from torchstone.atlas.claims.curvature import random_walk_pca
from torchstone.atlas.conformance import ClaimConformance


class TestRandomWalkPCA(ClaimConformance):
    id = "random_walk_pca"

    @pytest.mark.parametrize("kind", ["equal variances", "unequal variances"])
    def test_the_first_two_shares(self, kind):
        assert (random_walk_pca.POINTS, random_walk_pca.DIMENSIONS) == (500, 4000)
        assert self.measured(f"share of component 1, {kind}") == pytest.approx(0.608, abs=0.015)
        assert self.measured(f"share of component 2, {kind}") == pytest.approx(0.152, abs=0.008)

    def test_the_limit_is_the_sum_of_inverse_squares(self):
        shares = [6 / (math.pi * k) ** 2 for k in range(1, 100_000)]
        assert sum(shares) == pytest.approx(1, abs=1e-5)
