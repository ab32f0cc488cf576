"""One training example: gates, and rank correlations against SciPy."""

from typing import Any

import pytest
import torch
from scipy.stats import spearmanr

from torchstone.atlas.claims.memorisation import identity_from_one_example as module
from torchstone.atlas.conformance import ClaimConformance


class TestIdentityFromOneExample(ClaimConformance):
    id = "identity_from_one_example"
    seconds = 90.0  # 6 s of one core, on machines that are busy with other tests

    def test_one_layer_predicts_by_the_closed_form(self):
        assert self.measured("predictions of one layer on other images: relative distance") < 1e-6

    def test_constancy_grows_with_depth(self):
        assert self.measured("rank correlation of depth with the constant, random images") > 0.8
        assert self.measured("rank correlation of depth with the identity, digits") < -0.8

    def test_every_network_fits_its_image(self):
        assert self.measured("largest mean squared error on the example") < 1e-3


def test_rank_correlation_is_spearman_s():
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(9, generator=generator, dtype=torch.float64) for _ in range(2))
    result: Any = spearmanr(x.numpy(), y.numpy())
    assert module.rank_correlation(x, y) == pytest.approx(result.statistic)


@pytest.mark.parametrize("depth", [1, 3])
def test_the_networks_have_as_many_convolutions_as_they_say(depth: int):
    model = module.convolutional(depth, torch.Generator().manual_seed(0))
    assert sum(isinstance(layer, torch.nn.Conv2d) for layer in model) == depth
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 1, 8, 8)
