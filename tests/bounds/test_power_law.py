"""Exponents: exact on power laws, against polyfit on others, and the interval's coverage."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from torchstone.bounds.power_law import fit_power_law
from torchstone.errors import NumericalError, SettingError


def test_recovers_power_laws_exactly():
    t = torch.tensor([1, 2, 5, 7, 30])
    values = torch.tensor([[3.0], [0.75]], dtype=torch.float64) * t.double() ** torch.tensor(
        [[0.4], [1.6]], dtype=torch.float64
    )
    law = fit_power_law(t, values)
    assert law.exponents == pytest.approx((0.4, 1.6), rel=1e-12)
    assert law.exponent == pytest.approx(1.0, rel=1e-12)
    assert law.coefficient == pytest.approx(1.5, rel=1e-12)  # the geometric mean of 3 and 3/4
    assert law.residual == pytest.approx(0.0, abs=1e-12)


def test_equals_least_squares_of_logarithms():
    generator = torch.Generator().manual_seed(0)
    t = torch.rand(40, generator=generator, dtype=torch.float64) + 0.1
    values = torch.rand(3, 40, generator=generator, dtype=torch.float64) + 0.1
    law = fit_power_law(t, values)
    fits = [np.polyfit(np.log(t.numpy()), np.log(row.numpy()), 1) for row in values]
    assert law.exponents == pytest.approx([fit[0] for fit in fits], rel=1e-9)
    assert law.coefficient == pytest.approx(np.exp(np.mean([fit[1] for fit in fits])), rel=1e-9)


def test_interval_covers_as_often_as_it_says_with_five_curves_and_dependent_points():
    """Random walks around a power law of random exponent: the points of one curve are far from independent."""
    generator = torch.Generator().manual_seed(1)
    t, covered, trials = torch.arange(1, 21).double(), 0, 2000
    for _ in range(trials):
        exponents = 0.6 + 0.1 * torch.randn(5, 1, generator=generator, dtype=torch.float64)
        noise = 0.05 * torch.randn(5, 20, generator=generator, dtype=torch.float64).cumsum(1)
        law = fit_power_law(t, (exponents * t.log() + noise).exp())
        assert law.interval is not None
        covered += 0.6 in law.interval
    assert 0.935 <= covered / trials <= 0.965


def test_one_curve_has_no_interval():
    assert fit_power_law(torch.tensor([1.0, 2.0]), torch.tensor([[1.0, 4.0]])).interval is None


@pytest.mark.parametrize(
    ("times", "values", "error", "message"),
    [
        (torch.ones(3), torch.ones(3), SettingError, "times \\(T,\\) and one or more curves"),
        (torch.ones(3), torch.ones(0, 3), SettingError, "one or more curves"),
        (torch.ones(3), torch.ones(1, 3), SettingError, "two different times"),
        (torch.tensor([0.0, 1.0]), torch.ones(1, 2), NumericalError, "times that are positive"),
        (torch.tensor([1.0, 2.0]), torch.tensor([[0.0, 1.0]]), NumericalError, "values that are positive"),
        (
            torch.tensor([1.0, 2.0]),
            torch.tensor([[1.0, torch.nan]]),
            NumericalError,
            "values that are positive",
        ),
    ],
)
def test_refuses_what_has_no_logarithm(times, values, error, message):
    with pytest.raises(error, match=message):
        fit_power_law(times, values)
