"""Real data against noise: the gates."""

import pytest
import torch

from torchstone.atlas.conformance import ClaimConformance
from torchstone.details import Table


class TestPatternsBeforeNoise(ClaimConformance):
    id = "patterns_before_noise"

    def test_easy_examples_vary_more_than_twice_as_much_on_real_data(self):
        assert self.measured("variance of the chance to be right after one epoch: real over noise") > 2

    def test_random_labels_take_longer_in_every_training(self):
        assert self.measured("epochs to fit: least of randY less most of real") >= 1

    def test_the_gini_coefficient_is_that_of_the_definition(self):
        assert self.measured("Gini of equal values") == pytest.approx(0, abs=1e-12)
        assert self.measured("Gini of a single value") == pytest.approx(299 / 300)

    def test_dropout_hinders_memorising_and_not_learning(self):
        [table] = [figure for figure in self.result.evidence.figures if isinstance(figure, Table)]
        names, fitted, wrong = zip(*table.rows, strict=True)
        assert names[0] == "none"
        assert names[2] == "dropout 0.5"
        fitted, wrong = torch.tensor(fitted), torch.tensor(wrong)
        assert fitted[2] < fitted[0] - 5
        assert wrong[2] < wrong[0] + 2
