"""What is left out of training: the gates, and that the arms leave out what they say."""

import torch

from torchstone.atlas.claims.memorisation import unforgettable_examples_can_go as claim
from torchstone.atlas.conformance import ClaimConformance
from torchstone.training.forgetting import count_forgetting


class TestUnforgettableExamplesCanGo(ClaimConformance):
    id = "unforgettable_examples_can_go"

    def test_leaving_out_random_examples_costs_more(self):
        assert self.measured("test error: random less least forgotten, less two standard errors") > 0

    def test_planted_wrong_labels_are_forgotten_most(self):
        assert self.measured("area under the ROC curve for 10% planted wrong labels") > 0.9


def test_the_arms_leave_out_what_they_say():
    record = torch.ones(6, 40)
    record[1, 20:30] = 0  # forgotten once
    record[:, 30:] = 0  # never learned
    found = count_forgetting(record)
    generator = torch.Generator().manual_seed(0)
    left = claim._left(found, 28, claim.LEAST, generator)  # pyright: ignore[reportPrivateUsage]
    assert set(range(20, 40)) < set(left.tolist())
    assert len(left.unique()) == 28
    again = claim._left(found, 28, claim.LEAST, generator)  # pyright: ignore[reportPrivateUsage]
    assert not torch.equal(left, again)  # ties at random
    chance = claim._left(found, 28, claim.RANDOM, generator)  # pyright: ignore[reportPrivateUsage]
    assert len(chance.unique()) == 28
    assert not set(range(20, 40)) < set(chance.tolist())
