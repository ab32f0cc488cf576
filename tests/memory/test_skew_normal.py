"""The skew-normal law: SciPy's maximum likelihood and distribution function, gradients by autodiff, and hard samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm, skewnorm
from torch import Tensor

from torchstone.memory.skew_normal import _likelihood, fit_skew_normal, lower_tail_bits


@pytest.mark.parametrize("shape", [0.0, 0.5, -3.0, 8.0])
def test_no_law_of_scipys_search_is_likelier(shape: float) -> None:
    rows = skewnorm(shape, loc=-40, scale=6).rvs((4, 200), random_state=1)
    for row, found in zip(rows, fit_skew_normal(torch.from_numpy(rows)).tolist(), strict=True):
        likelihood = lambda law, row=row: float(skewnorm.logpdf(row, *law).sum())
        assert likelihood(found) >= likelihood(skewnorm.fit(row)) - 1e-6


def test_gradient_and_hessian_are_those_of_autodiff() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 30, generator=generator, dtype=torch.float64)
    for law in ([0.7, 0.1, -0.2], [-3.0, 0.5, 0.4], [0.0, 0.0, 0.0]):
        at = torch.tensor([law], dtype=torch.float64)
        value = lambda p: _likelihood(x, p[None])[0].sum()
        _, slope, curvature = _likelihood(x, at)
        torch.testing.assert_close(slope[0], torch.func.grad(value)(at[0]))
        torch.testing.assert_close(curvature[0], torch.func.jacfwd(torch.func.grad(value))(at[0]))


def test_units_change_location_and_scale_alone_and_rows_do_not_meet() -> None:
    rows = torch.from_numpy(skewnorm(2.0).rvs((3, 100), random_state=2))
    found, moved = fit_skew_normal(rows), fit_skew_normal(1e6 * rows - 5e7)
    torch.testing.assert_close(moved[:, 0], found[:, 0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        moved[:, 1:], torch.stack([1e6 * found[:, 1] - 5e7, 1e6 * found[:, 2]], 1), rtol=1e-6, atol=1
    )
    torch.testing.assert_close(fit_skew_normal(rows[1:2]), found[1:2], rtol=1e-6, atol=1e-6)


def test_half_normal_samples_have_a_steep_law() -> None:
    sample = torch.from_numpy(np.abs(norm.rvs(size=(1, 300), random_state=3)))
    shape, location, scale = fit_skew_normal(sample)[0].tolist()
    assert 50 < shape <= 1000
    assert location == pytest.approx(float(sample.min()), abs=0.02)
    assert scale == pytest.approx(1.0, abs=0.15)


def laws(*rows: tuple[float, float, float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def test_tails_are_those_of_scipy() -> None:
    values = torch.tensor([-3.0, 0.0, 2.0, 5.0], dtype=torch.float64)
    found = lower_tail_bits(values, laws((0.0, 1.0, 2.0), (3.0, -2.0, 1.5), (-2.0, 4.0, 1.0)))
    for row, law in zip(found, ((0.0, 1.0, 2.0), (3.0, -2.0, 1.5), (-2.0, 4.0, 1.0)), strict=True):
        assert row.tolist() == pytest.approx(
            (-skewnorm.logcdf(values.numpy(), *law) / math.log(2)).tolist(), rel=1e-4
        )


def test_the_two_ways_to_a_tail_meet() -> None:
    """Around 1e-6 the distribution function gives way to the integral of the density."""
    values = torch.linspace(-4.9, -4.6, 200, dtype=torch.float64)
    bits = lower_tail_bits(values, laws((0.0, 0.0, 1.0)))[0]
    exact = torch.from_numpy(-norm.logcdf(values.numpy()) / math.log(2))
    torch.testing.assert_close(bits, exact, rtol=1e-6, atol=0)
    assert float(exact.min()) < 6 / math.log10(2) < float(exact.max())
