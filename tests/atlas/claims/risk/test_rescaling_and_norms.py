"""Rescaling: the gate at c = 100, and that the rescaled network is the one stated."""

import torch
from torch import nn

from torchstone.atlas.claims.risk import rescaling_and_norms as claim
from torchstone.atlas.conformance import ClaimConformance


class TestRescalingAndNorms(ClaimConformance):
    id = "rescaling_and_norms"

    def test_function_and_path_norm_stay_and_the_euclidean_norm_does_not(self):
        assert self.measured("c = 100: largest change of an output, float64") < 1e-10
        assert self.measured("c = 100: largest change of an output, float32") < 1e-5
        assert self.measured("c = 100: Euclidean norm over what it was") > 10
        assert self.measured("c = 100: relative change of the path norm, order 2") < 1e-10


def test_the_rescaled_network_is_the_one_stated():
    net = claim.network(nn.ReLU, torch.Generator().manual_seed(0))
    before = [parameter.clone() for parameter in net.parameters()]
    scaled = list(claim.rescaled(net, 100.0).parameters())
    factors = [100.0, 100.0, 0.01, 1.0, 1.0, 1.0]
    for old, new, factor in zip(before, scaled, factors, strict=True):
        assert torch.allclose(new, factor * old, rtol=1e-12)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
