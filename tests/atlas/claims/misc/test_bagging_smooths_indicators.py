"""Bagged indicators: the gate, and the theory against a plain simulation and closed forms."""

import math

import pytest
import torch

from torchstone.atlas.claims.misc import bagging_smooths_indicators as module
from torchstone.atlas.conformance import ClaimConformance


class TestBaggingSmoothsIndicators(ClaimConformance):
    id = "bagging_smooths_indicators"

    def test_a_quarter_becomes_a_twelfth_within_3_percent(self):
        assert (module.EXAMPLES, module.RESAMPLES) == (2000, 500)
        assert self.measured("variance of the indicator at its threshold") == pytest.approx(0.25, rel=0.03)
        assert self.measured("variance of the bagged indicator") == pytest.approx(1 / 12, rel=0.03)


def test_moments_of_the_limit():
    """E Phi(c - Z) = Phi(c / sqrt 2); at c = 0, Phi(-Z) is uniform."""
    mean, variance = module.bagged_moments(0.0)
    assert (mean, variance) == (pytest.approx(0.5), pytest.approx(1 / 12))
    normal = lambda z: 0.5 * math.erfc(-z / math.sqrt(2))
    assert module.bagged_moments(1.3)[0] == pytest.approx(normal(1.3 / math.sqrt(2)))
    z = torch.randn(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    draws = torch.special.ndtr(1.3 - z)
    assert module.bagged_moments(1.3)[1] == pytest.approx(float(draws.var()), rel=0.02)


def test_shared_resamples_leave_the_variance_alone(monkeypatch):
    """Small data sets, each with resamples of its own: the same variance within chance."""
    monkeypatch.setattr(module, "EXAMPLES", 40)
    monkeypatch.setattr(module, "RESAMPLES", 60)
    generator = torch.Generator().manual_seed(1)
    shared = module.predictors(4000, generator, hard=True)[1][:, module.EDGE]
    own = []
    for _ in range(1000):
        x = torch.randn(40, generator=generator)
        rows = torch.randint(40, (60, 40), generator=generator)
        own.append(float((x[rows].mean(1) <= 0).double().mean()))
    assert float(shared.var()) == pytest.approx(float(torch.tensor(own).var()), rel=0.12)
