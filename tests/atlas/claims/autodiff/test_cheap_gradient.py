"""Gradients are cheap: gates."""

from torchstone.atlas.conformance import ClaimConformance


class TestCheapGradient(ClaimConformance):
    id = "cheap_gradient"

    def test_ratio_and_linearity(self):
        assert self.measured("largest cost of function and gradient over function, ten networks") <= 5
        assert self.measured("R^2 of cost against depth, a straight line") > 0.999
        assert self.measured("forward sweeps for 64 inputs") == 64
