"""Statistics of time steps: gates, and the drift by hand."""

import pytest
import torch

from torchstone.atlas.claims.signal import recurrent_statistics as module
from torchstone.atlas.conformance import ClaimConformance


class TestRecurrentStatistics(ClaimConformance):
    id = "recurrent_statistics"

    def test_transient_means_drift_and_shared_statistics_lose_to_layer_normalisation(self):
        assert self.measured("drift of the means, transient") > 1
        name = "evaluation error with shared statistics less that with layer normalisation, points"
        assert self.measured(name) > 0

    def test_stationary_means_do_not(self):
        assert self.measured("drift of the means, stationary") < 0.05


def test_drift_by_hand():
    noise = torch.randn(3, 50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise = noise - noise.mean(1, keepdim=True)
    shifted = noise + torch.tensor([[0.0, 0.0], [0.0, 0.0], [3.0, 0.0]], dtype=torch.float64)[:, None]
    sigma = float(shifted[:, :, 0].flatten().std())
    assert module.drift(shifted).tolist() == pytest.approx([1 / sigma, 1 / sigma, 2 / sigma])
    assert float(module.drift(noise).max()) < 1e-12


def test_sequences_hold_their_level_and_class():
    generator = torch.Generator().manual_seed(0)
    x, labels = module.sequences(20_000, module.decaying, 2, generator)
    means = x[:, :, 1].mean(0)
    # The level waits at its first value while the state settles.
    assert means[:4].tolist() == pytest.approx([6, 6, 6, 4.8], abs=0.05)
    difference = x[labels == 1, -1, 0].mean() - x[labels == 0, -1, 0].mean()
    assert float(difference) == pytest.approx(2 * module.SIGNAL, abs=0.06)
