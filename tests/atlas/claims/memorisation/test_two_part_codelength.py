"""Codelengths: gates, and that the trained bound ends at the closed form."""

import pytest
import torch

from torchstone.atlas.claims.memorisation import two_part_codelength as module
from torchstone.atlas.conformance import ClaimConformance
from torchstone.memory import ProbabilisticPCA


class TestTwoPartCodelength(ClaimConformance):
    id = "two_part_codelength"

    def test_it_is_exact_at_the_optimum(self):
        assert self.measured("bits at the PCA optimum, each example: distance") < 1e-6

    def test_it_is_larger_elsewhere(self):
        assert self.measured("least excess over -log2 p(x), other encoders") >= 0
        assert self.measured("least mean excess over the optimum, other decoders") >= 0


@pytest.mark.parametrize("seed", [1, 2])
def test_training_reaches_the_maximum_likelihood_fit_from_any_start(seed: int):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(50, 6, generator=generator, dtype=torch.float64) * torch.tensor(
        [3.0, 2, 1, 0.5, 0.4, 0.3]
    )
    least = float(ProbabilisticPCA.fit(x, 2).exact_bits(x).mean())
    assert module.trained_bound(x, generator, with_noise=True).trained == pytest.approx(least, abs=1e-6)
