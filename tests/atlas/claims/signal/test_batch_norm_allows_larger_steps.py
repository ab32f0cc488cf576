"""Larger steps with batch normalisation: gates, and the law of lengths by hand."""

import pytest
import torch

from torchstone.atlas import Scale
from torchstone.atlas.claims.signal import batch_norm_allows_larger_steps as module
from torchstone.atlas.claims.signal._normalised import Kind
from torchstone.atlas.conformance import ClaimConformance
from torchstone.atlas.run import generator_for


class TestBatchNormAllowsLargerSteps(ClaimConformance):
    id = "batch_norm_allows_larger_steps"

    def test_the_largest_stable_rate_is_three_times_as_large(self):
        name = "largest stable rate, batch normalisation over plain, ten layers, every seed"
        assert self.measured(name) >= 3

    def test_squared_lengths_grow_by_the_squared_step(self):
        assert self.measured("largest relative error of |w|^2 + eta^2 |g|^2") < 1e-13

    def test_all_of_the_counterexample_fails(self):
        evidence = self.claim.counterexample(Scale.QUICK, generator_for(self.id, 0))
        assert len(evidence.refuted) == len(evidence.checks) == 3


def test_lengths_never_fall_behind_normalisation_and_do_elsewhere():
    lengths, _, _ = module.squared_lengths(Kind.BATCH, 1.0, torch.Generator().manual_seed(0))
    assert bool((lengths.diff(dim=0) > 0).all())
    lengths, _, cosine = module.squared_lengths(Kind.PLAIN, 0.01, torch.Generator().manual_seed(0))
    assert bool((lengths.diff(dim=0) < 0).any())
    assert cosine > 1e-3


def test_the_largest_stable_rate_of_each_seed():
    guess = 2.3
    losses = torch.tensor([[0.5, 0.1, guess, 10.0, 10.0], [guess] * 5, [guess, guess, guess, guess, 1.0]])
    assert module.largest_stable(losses).tolist() == pytest.approx(
        [module.RATES[1], float("nan"), module.RATES[4]], rel=1e-6, nan_ok=True
    )
