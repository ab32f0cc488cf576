"""Linear autoencoders: gates, and the projection against the pseudo-inverse."""

import pytest
import torch

from torchstone.atlas.claims.memorisation import linear_autoencoder_projection as module
from torchstone.atlas.conformance import ClaimConformance


class TestLinearAutoencoderProjection(ClaimConformance):
    id = "linear_autoencoder_projection"

    @pytest.mark.parametrize("start", ["0", "a random start"])
    def test_the_weights_reach_their_predicted_limit(self, start: str):
        assert self.measured(f"weights trained from {start}: distance") < 1e-6


def test_the_trained_weight_is_the_data_times_its_pseudo_inverse():
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    zero = torch.zeros(8, 8, dtype=torch.float64)
    expected = x.T @ torch.linalg.pinv(x.T)
    weight, path = module.descended(x, zero, expected, 1000)
    assert float((weight - expected).norm()) < 1e-6
    assert [*path.values()] == sorted(path.values(), reverse=True) or path[1000] < 1e-12
