"""The minimum-norm interpolant: the gate on the slope, and the one-pass errors by refitting."""

import pytest
import torch

from torchstone.atlas.claims.risk import minimum_norm_rate as claim
from torchstone.atlas.conformance import ClaimConformance


class TestMinimumNormRate(ClaimConformance):
    id = "minimum_norm_rate"

    def test_slope_from_50_to_1600_examples(self):
        assert (claim.SIZES[0], claim.SIZES[-1]) == (50, 1600)
        assert self.measured("slope of log excess risk against log n") <= -0.9

    def test_one_pass_costs_at_most_the_squared_norm(self):
        assert self.measured("largest sum of squared one-pass errors over R^2 |f*|^2") <= 1


def test_one_pass_errors_by_refitting_each_time():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(12, claim.DIMENSIONS, generator=generator, dtype=torch.float64)
    y = torch.randn(12, generator=generator, dtype=torch.float64)
    gram = claim.kernel(x, x)
    errors, variances = claim.one_pass(torch.linalg.cholesky(gram), y)
    assert float(errors[0]) == pytest.approx(-float(y[0]))
    for n in range(1, 12):
        inverse = torch.linalg.inv(gram[:n, :n])
        assert float(errors[n]) == pytest.approx(float(gram[n, :n] @ inverse @ y[:n] - y[n]), abs=1e-10)
        expected = float(gram[n, n] - gram[n, :n] @ inverse @ gram[:n, n])
        assert float(variances[n]) == pytest.approx(expected, rel=1e-9)


def test_targets_have_the_norm_stated():
    target = claim.Target.drawn(torch.Generator().manual_seed(1))
    gram = claim.kernel(target.centres, target.centres)
    assert float(target.weights @ gram @ target.weights) == pytest.approx(target.squared_norm, rel=1e-12)
