"""Exposure of secrets: the gates."""

import math

import pytest
import torch

from torchstone.atlas.claims.memorisation import secrets_are_exposed as claim
from torchstone.atlas.claims.memorisation._window_model import WindowModel
from torchstone.atlas.conformance import ClaimConformance


class TestSecretsAreExposed(ClaimConformance):
    id = "secrets_are_exposed"

    def test_before_training_the_mean_is_1_over_ln_2(self):
        [check] = [c for c in self.result.evidence.checks if c.name == "exposure before training (bits)"]
        assert check.standard_error is not None
        assert abs(check.measured - 1 / math.log(2)) < 3 * check.standard_error < 0.3

    def test_a_planted_canary_reaches_the_top_and_is_read_out(self):
        assert self.measured("smallest exposure after training (bits)") == pytest.approx(math.log2(10_000))
        assert self.measured("share of canaries read out") == 1

    def test_private_training_keeps_it_below_3_bits(self):
        assert self.measured("their mean exposure after private training (bits)") < 3
        assert self.measured("mean exposure of 16 canaries together (bits)") > 6


def test_an_untrained_model_is_more_than_4_bits_above_the_best_possible():
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        model = WindowModel(claim.VOCABULARY, generator=generator)
        found = claim.log_perplexities(model, claim.PIN.draw(500, generator)).mean()
        assert float(found) - math.log2(claim.PIN.size) > 4


def test_the_model_is_causal():
    generator = torch.Generator().manual_seed(0)
    model = WindowModel(claim.VOCABULARY, generator=generator)
    tokens = claim.PIN.draw(3, generator)
    changed = tokens.clone()
    changed[:, 4] = (changed[:, 4] + 1) % 10
    first, second = model(tokens), model(changed)
    assert torch.equal(first[:, :4], second[:, :4])
    assert not torch.equal(first[:, 4], second[:, 4])
