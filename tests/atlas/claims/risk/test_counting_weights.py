"""Counting weights: the rate written out again, and the gate on rank correlation."""

import math

import pytest

from torchstone.atlas.claims.risk import counting_weights
from torchstone.atlas.conformance import ClaimConformance


class TestCountingWeights(ClaimConformance):
    id = "counting_weights"

    def test_the_bound_increases_and_the_test_error_does_not(self):
        assert (counting_weights.WIDTHS[0], counting_weights.WIDTHS[-1]) == (8, 1024)
        assert self.measured("digits: smallest growth of the rate from a width to the next") > 1
        assert self.measured("digits: rank correlation of rate and test error") <= 0

    def test_vacuous_from_the_width_printed(self):
        width = int(self.measured("digits: width from which the rate is above 1"))
        for w, above in ((width, True), (width - 1, False)):
            weights = 64 * w + w + 10 * w + 10
            assert (math.sqrt(weights * 2 * math.log(weights) / 1400) > 1) == above


def test_sizes_are_counted_right():
    assert counting_weights.size(64, 8).weights == 64 * 8 + 8 + 80 + 10
    assert counting_weights.size(64, 8).layers == 2


def test_the_full_bound_is_above_the_rate_of_sampling_alone():
    assert counting_weights.full_bound(64, 8, 10**7, 0.0) == pytest.approx(0.05, abs=0.04)
