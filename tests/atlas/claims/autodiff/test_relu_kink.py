"""The slope at a kink: gates."""

from torchstone.atlas.claims.autodiff import relu_kink
from torchstone.atlas.conformance import ClaimConformance


class TestReluKink(ClaimConformance):
    id = "relu_kink"

    def test_bits_and_the_wrong_slope(self):
        assert relu_kink.POINTS == 100_000
        assert self.measured("gradients whose bits differ from PyTorch's") == 0
        assert self.measured("automatic derivative of ReLU(t) - ReLU(-t) at 0") == 0
