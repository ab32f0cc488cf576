"""Random labels, poisoned minima and what tells them apart: the gates with numbers of their own."""

import pytest
import torch

from torchstone.atlas.claims.implicit_bias import random_labels_are_fitted as module
from torchstone.atlas.conformance import ClaimConformance


class TestRandomLabelsAreFitted(ClaimConformance):
    id = "random_labels_are_fitted"
    seconds = 90.0

    @pytest.mark.parametrize("kind", ["true labels", "random labels"])
    def test_all_training_labels_are_fitted(self, kind):
        assert self.measured(f"training accuracy, {kind}") == 1.0

    def test_only_true_labels_generalize(self):
        assert self.measured("test accuracy, true labels") >= 0.95
        assert self.measured("test accuracy, random labels") == pytest.approx(0.1, abs=0.04)

    def test_a_poisoned_minimum_fits_and_fails(self):
        assert self.measured("training accuracy, poisoned") == 1.0
        assert self.measured("test accuracy, poisoned") < 0.6

    def test_normalised_margins_tell_them_apart(self):
        name = "share of pairs in which a true label has the larger normalised margin"
        assert self.measured(name) >= 0.95


def test_outcome_of_a_kind():
    values = torch.tensor([1.0, 2.0, 3.0])
    found = module.Outcome(
        (module.TRUE, module.RANDOM, module.RANDOM), values, values, values[:, None], values
    )
    assert found.of(module.RANDOM, found.train).tolist() == [2.0, 3.0]
