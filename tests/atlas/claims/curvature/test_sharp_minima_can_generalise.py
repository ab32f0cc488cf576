"""Rescaled networks: the gates, and the transformation written out."""

import pytest
import torch

from torchstone.atlas.claims.curvature import sharp_minima_can_generalise as module
from torchstone.atlas.conformance import ClaimConformance


class TestSharpMinimaCanGeneralise(ClaimConformance):
    id = "sharp_minima_can_generalise"

    def test_outputs_stay_to_1e_10(self):
        assert self.measured("largest change of an output") < 1e-10

    @pytest.mark.parametrize(
        "block",
        ["first block of the Hessian against H_11 / a^2", "second block of the Hessian against a^2 H_22"],
    )
    def test_blocks_are_rescaled_to_1e_8(self, block: str):
        assert self.measured(f"{block}: relative distance") <= 1e-8

    def test_the_largest_eigenvalue_grows_like_the_inverse_square(self):
        assert self.measured("largest eigenvalue at a = 0.01 over that of H_11 / a^2") >= 1 - 1e-8

    def test_adaptive_sharpness_stays_to_1e_6(self):
        assert self.measured("largest relative change of the sharpness that should stay") <= 1e-6


def test_only_the_two_layers_weights_and_the_first_ones_biases_are_rescaled() -> None:
    weights = torch.arange(1.0, module.blocks()[1].stop + 1, dtype=torch.float64)
    moved, plain = (dict(module.network(weights, alpha).named_parameters()) for alpha in (4.0, 1.0))
    assert set(moved) == {"0.weight", "0.bias", "2.weight"}
    torch.testing.assert_close(moved["0.weight"], 4 * plain["0.weight"])
    torch.testing.assert_close(moved["0.bias"], 4 * plain["0.bias"])
    torch.testing.assert_close(moved["2.weight"], plain["2.weight"] / 4)


def test_the_network_is_trained() -> None:
    x, y, weights = module.trained(60, torch.Generator().manual_seed(0))
    loss = torch.nn.functional.cross_entropy(module.network(weights, 1.0)(x), y)
    assert float(loss.detach()) < 0.6  # log(3) = 1.1 by guessing
