"""The size of the weights: the gate of duplicated units."""

from torchstone.atlas.conformance import ClaimConformance


class TestSizeOfWeights(ClaimConformance):
    id = "size_of_weights"

    def test_ten_copies_change_the_count_and_not_the_bound(self):
        assert self.measured("weights with 10 copies over weights with one") > 9.5
        assert self.measured("relative change of the bound from the size of the weights") < 1e-9
        assert self.measured("relative change of the size of the weights") < 1e-9
        assert self.measured("largest change of an output with 10 copies") < 1e-10
