"""Enough examples: the gate, and the networks' shape by hand."""

import math

import pytest
import torch

from torchstone.atlas.claims.risk import enough_examples
from torchstone.atlas.conformance import ClaimConformance


class TestEnoughExamples(ClaimConformance):
    id = "enough_examples"

    def test_no_failure_in_fifty_runs(self):
        assert (enough_examples.RUNS, enough_examples.DIMENSIONS) == (50, 5)
        [failures] = [c.measured for c in self.result.evidence.checks if c.name.startswith("failures of 50")]
        assert failures == 0

    def test_the_calculator(self):
        found = self.measured("examples by the rule, calculator against formula")
        assert found == pytest.approx(32 * 15 / 0.125 * math.log(32 * 3 / 0.125), rel=1e-12)


def test_the_networks_are_threshold_units():
    generator = torch.Generator().manual_seed(0)
    nets = enough_examples.random_networks(4, generator)
    x = torch.randn(4, 30, 5, generator=generator)
    found = nets(x)
    for k in range(4):
        for i in range(30):
            units = [
                1.0 if float(nets.hidden[k, j] @ x[k, i] + nets.offsets[k, j]) > 0 else -1.0 for j in range(2)
            ]
            score = float(nets.output[k] @ torch.tensor(units)) + float(nets.offset[k])
            assert int(found[k, i]) == int(score > 0)
    shares = found.double().mean(1)
    assert bool(((shares > 0) & (shares < 1)).all())
