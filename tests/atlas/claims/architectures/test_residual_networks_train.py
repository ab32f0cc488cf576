"""Residual networks: the gates of the claim, the number of layers, and equal shapes."""

import torch
from torch import nn

from torchstone.atlas.claims.architectures import residual_networks_train as claim
from torchstone.atlas.conformance import ClaimConformance
from torchstone.specimens.networks import residual_mlp


class TestResidualNetworksTrain(ClaimConformance):
    id = "residual_networks_train"

    def test_the_residual_network_learns_and_the_plain_one_does_not(self):
        assert self.measured("training loss of the residual network") < 0.05
        assert self.measured("training loss of the plain network, best of 1 learning rates") > 1.0

    def test_a_zero_block_is_the_identity_exactly(self):
        assert self.measured("largest |h(x) - x| of five blocks whose last layer is zero") == 0.0


def test_the_networks_differ_in_their_shortcuts_alone():
    made = [
        residual_mlp(claim.BLOCKS, claim.WIDTH, skip, generator=torch.Generator().manual_seed(0))
        for skip in (True, False)
    ]
    assert [sum(isinstance(m, nn.Linear) for m in model.modules()) for model in made] == [50, 50]
    shapes = [{name: p.shape for name, p in model.named_parameters()} for model in made]
    assert shapes[0] == shapes[1]


def test_blocks_without_shortcuts_are_far_from_the_identity():
    assert claim.identity_error(False, torch.Generator().manual_seed(0)) > 1.0
    assert claim.identity_error(True, torch.Generator().manual_seed(0)) == 0.0


def test_a_training_that_diverges_counts_as_infinite():
    assert claim.trained(False, 0, 100, 2, 1e30).end == float("inf")
