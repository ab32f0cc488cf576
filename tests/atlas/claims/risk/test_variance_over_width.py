"""Bias and variance over width, and the closed form of a fit by least squares behind it."""

from __future__ import annotations

import pytest
import torch

from torchstone.atlas.claims.risk import variance_over_width
from torchstone.atlas.conformance import ClaimConformance
from torchstone.bounds import squared_bias_variance


class TestVarianceOverWidth(ClaimConformance):
    id = "variance_over_width"

    def test_both_sides_of_one_half_are_seen(self) -> None:
        assert self.measured("share of the variance, 5 units") < 0.5
        assert self.measured("share of the variance, 150 units") > 0.9

    def test_the_erratum_is_named(self) -> None:
        assert [erratum.id for erratum in self.claim.errata] == ["E05"]


def test_least_squares_has_the_variance_of_the_inverse_wishart_law_and_no_bias() -> None:
    # Gaussian design: sigma^2 p / (n - p - 1) at every p < n - 1; bias 0.
    source = torch.Generator().manual_seed(0)
    gaussian = lambda *shape: torch.randn(*shape, generator=source, dtype=torch.float64)
    n, p, noise = 30, 10, 0.7
    beta, tests = gaussian(p), gaussian(300, p)
    x = gaussian(200, n, p)
    y = x @ beta + noise * gaussian(200, n)
    fits = torch.linalg.lstsq(x, y[..., None]).solution[..., 0]
    found = squared_bias_variance((fits @ tests.T)[:, None], tests @ beta)
    exact = noise**2 * p / (n - p - 1)
    assert abs(found.variance.value - exact) < 3 * found.variance.error.total
    assert abs(found.bias.value) < 3 * found.bias.error.total


def test_masked_networks_are_narrow_ones() -> None:
    narrow = variance_over_width.Masked(4, torch.Generator().manual_seed(1))
    x = torch.randn(7, variance_over_width.TRAINED_INPUTS, generator=torch.Generator().manual_seed(2))
    expected = (x @ narrow.inner[:, :4] + narrow.bias[:4]).relu() @ narrow.outer[:4]
    assert torch.allclose(narrow(x), expected, atol=1e-6)
    with torch.no_grad():
        narrow.outer[4:] = 1e6
    assert torch.allclose(narrow(x), expected, atol=1e-6)


def test_the_penalty_removes_the_peak() -> None:
    source = torch.Generator().manual_seed(3)
    found = variance_over_width.random_features(8, 2, variance_over_width.PEAK_FREE, source)
    free = variance_over_width.random_features(8, 2, 1e-10, torch.Generator().manual_seed(3))
    n = variance_over_width.EXAMPLES
    assert found[n].variance.value < 0.3 < free[n].variance.value
    assert found[5].bias.value == pytest.approx(free[5].bias.value, rel=0.5)
