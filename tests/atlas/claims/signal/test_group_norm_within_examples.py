"""Group normalisation within examples: the gates of the claim, and the couplings of the other normalisations."""

import torch
from torch.nn import functional

from torchstone.atlas.claims.signal import group_norm_within_examples as claim
from torchstone.atlas.conformance import ClaimConformance


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class TestGroupNormWithinExamples(ClaimConformance):
    id = "group_norm_within_examples"

    def test_examples_do_not_see_each_other(self):
        assert self.measured("largest derivative in another example, any number of groups") == 0
        assert self.measured("largest change of an example among other mates") == 0

    def test_it_is_not_the_general_partition(self):
        pairs = "partition of an example's channels in scattered pairs, distance to the nearest group normalisation"
        assert self.measured(pairs) > 0.1


def test_torchs_own_layers_couple_examples_where_their_blocks_do():
    x = draw(4, 6, 3, 3)
    assert claim.coupling(lambda x: functional.group_norm(x, 3), x, draw) == 0
    assert claim.coupling(lambda x: functional.batch_norm(x, None, None, training=True), x, draw) > 1e-3


def test_groups_of_one_channel_across_the_batch_are_batch_normalisation():
    x = draw(4, 6, 3, 3)
    found = claim.partition_normalise(x, claim.across_examples(x.shape, 6))
    torch.testing.assert_close(found, functional.batch_norm(x, None, None, training=True))


def test_divisors_are_all_of_them():
    assert claim.divisors(12) == [1, 2, 3, 4, 6, 12]
