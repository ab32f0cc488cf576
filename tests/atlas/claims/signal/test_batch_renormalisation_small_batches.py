"""Batch renormalisation on sorted pairs: gates, and the order of batches."""

import pytest
import torch

from torchstone.atlas.claims.signal import batch_renormalisation_small_batches as module
from torchstone.atlas.conformance import ClaimConformance
from torchstone.data.digits import digits


class TestBatchRenormalisationSmallBatches(ClaimConformance):
    id = "batch_renormalisation_small_batches"

    def test_the_gain_on_sorted_pairs_is_five_points_or_more(self):
        assert (
            self.measured("test error with batch normalisation less that with batch renormalisation, points")
            >= 5
        )

    @pytest.mark.parametrize("size", [2, 8, 32])
    def test_noise_of_batch_means(self, size: int):
        assert self.measured(f"variance of batch means over sigma^2 / B, B = {size}") == pytest.approx(
            1, abs=0.15
        )


def test_sorted_pairs_hold_one_class_and_every_example_once():
    labels = digits().train_y
    pairs = module.sorted_pairs(labels, torch.Generator().manual_seed(0))
    assert bool((labels[pairs[:, 0]] == labels[pairs[:, 1]]).all())
    assert len(pairs.flatten().unique()) == pairs.numel() >= len(labels) - 10
    assert not torch.equal(labels[pairs[:, 0]], labels[pairs[:, 0]].sort().values)


def test_variance_splits_into_within_and_between():
    h, labels = module.hidden(torch.Generator().manual_seed(1))
    kept = torch.cat([(labels == label).nonzero()[:130, 0] for label in range(10)])  # classes of equal size
    within, between = module.parts_of_variance(h[kept], labels[kept])
    assert float(within + between) == pytest.approx(float(h[kept].var(correction=0)))
    assert float(between) > 0
