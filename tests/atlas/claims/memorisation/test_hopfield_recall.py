"""Hopfield recall: gates, and that the fall lies at the critical load."""

import pytest

from torchstone.atlas.conformance import ClaimConformance
from torchstone.details import Curve
from torchstone.memory import CRITICAL_LOAD, unstable_bit_rate


class TestHopfieldRecall(ClaimConformance):
    id = "hopfield_recall"

    def test_every_pattern_is_recalled_bit_by_bit_at_a_twentieth(self):
        assert self.measured("share of patterns recalled bit by bit") == 1

    def test_recall_breaks_down_beyond_the_critical_load(self):
        assert self.measured("mean overlap at 0.25 N patterns") < 0.75
        [curve] = [figure for figure in self.result.evidence.figures if isinstance(figure, Curve)]
        [line] = curve.lines
        below = [y for x, y in zip(line.x, line.y, strict=True) if x < 0.8 * CRITICAL_LOAD]
        assert min(below) > 0.95

    def test_the_rate_of_unstable_bits(self):
        assert self.measured("share of unstable bits at 0.2 N patterns") == pytest.approx(
            unstable_bit_rate(0.2), rel=0.1
        )
