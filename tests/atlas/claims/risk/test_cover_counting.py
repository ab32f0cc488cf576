"""Cover's count: 562/2048 within three standard errors, full lists, and what special positions do."""

import torch

from torchstone.atlas import Scale
from torchstone.atlas.claims.risk import cover_counting as module
from torchstone.atlas.conformance import ClaimConformance


class TestCoverCounting(ClaimConformance):
    id = "cover_counting"

    def test_share_of_separable_labellings_is_562_of_2048(self):
        share = 562 / 2048
        assert (
            abs(self.measured("share of separable labellings, n = 12, d = 5") - share)
            < 3 * (share * (1 - share) / 400) ** 0.5
        )

    def test_full_lists(self):
        assert self.measured("labellings, n = 7, d = 3") == 2 * (1 + 6 + 15)
        assert self.measured("VC dimension, n = 9, d = 2") == 2

    def test_points_on_a_hyperplane_have_fewer(self):
        evidence = module.counterexample(Scale.QUICK, torch.Generator().manual_seed(0))
        refuted = {check.name: check.measured for check in evidence.refuted}
        assert refuted["labellings, n = 7, d = 3"] == 2 * (1 + 6)
