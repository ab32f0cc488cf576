from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import binomtest

from torchstone.errors import NumericalError, SettingError
from torchstone.linalg import FunctionMap, hutchinson_trace, trace

N = 200
RANKS = torch.arange(1, N + 1.0).double()
SPECTRA = {
    "even": 1 + RANKS / N,
    "slow": RANKS**-0.5,
    "power": RANKS**-2,
    "geometric": 0.9**RANKS,
    "step": torch.where(RANKS <= 12, 10.0, 0.01),
    "indefinite": torch.linspace(-1, 3, N).double(),
}


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("tolerance", [0.05, 0.005])
def test_tolerances_are_met_and_bars_cover(seeded, with_spectrum, name, tolerance):
    A, truth = with_spectrum(SPECTRA[name]), float(SPECTRA[name].sum())
    hits, errors = 0, []
    for seed in range(200):
        estimate = trace(A, tolerance=tolerance, generator=seeded(seed))
        assert estimate.converged
        assert estimate.standard_error <= tolerance * abs(estimate.value)
        assert estimate.products < 3 * N
        low, high = estimate.interval()
        hits += low - 1e-9 * N <= truth <= high + 1e-9 * N  # an exact trace is exact to rounding
        errors.append((estimate.value - truth) / truth)
    # Stopping on an estimated error costs a little coverage: 0.92 is asked for where 0.95 is said.
    assert binomtest(hits, 200, 0.92, alternative="less").pvalue > 0.01, f"{hits} of 200"
    assert float(torch.tensor(errors).square().mean().sqrt()) < 1.3 * tolerance


def test_far_fewer_products_than_hutchinson_where_the_spectrum_decays(seeded, with_spectrum):
    for name, factor in (("power", 10), ("step", 10), ("geometric", 3)):
        A = with_spectrum(SPECTRA[name])
        ours = sum(trace(A, tolerance=0.01, generator=seeded(s)).products for s in range(10))
        plain = sum(hutchinson_trace(A, tolerance=0.01, generator=seeded(s)).products for s in range(10))
        assert ours < plain / factor, name


@pytest.mark.parametrize("n", [1, 2, 30, 64])
def test_small_maps_are_exact(seeded, n):
    A = torch.randn(n, n, generator=seeded(0), dtype=torch.float64)
    estimate = trace(A, generator=seeded(0))
    assert (estimate.method, estimate.products, estimate.standard_error) == ("exact", n, 0)
    assert estimate.value == pytest.approx(float(A.trace()), rel=1e-12)


def test_traces_near_zero_are_exact_or_good_enough(seeded, with_spectrum):
    A = with_spectrum(torch.linspace(-1, 1, N))
    exact = trace(A, generator=seeded(0))
    assert exact.method == "exact"
    assert abs(exact.value) < 1e-10
    near = trace(A, absolute=3.0, generator=seeded(0))
    assert near.method != "exact"
    assert 0 < near.standard_error <= 3
    assert near.products < N
    assert (
        hutchinson_trace(A, tolerance=0.01, absolute=3.0, generator=seeded(0)).products
        < hutchinson_trace(A, tolerance=0.01, generator=seeded(0), max_probes=500).products
    )


def test_a_budget_that_is_too_small_is_said(seeded, with_spectrum):
    A = with_spectrum(SPECTRA["slow"])
    estimate = trace(A, tolerance=1e-6, max_products=60, generator=seeded(0))
    assert not estimate.converged
    assert estimate.products == 60
    assert estimate.standard_error > 1e-6 * estimate.value
    assert math.isfinite(estimate.standard_error)


def test_sketches_stay_within_their_limit(seeded, with_spectrum):
    widths = []
    matrix = with_spectrum(0.97**RANKS)

    def product(X: torch.Tensor) -> torch.Tensor:
        widths.append(X.shape[1])
        return matrix @ X

    A = FunctionMap(product, (N, N), torch.float64, block=True)
    estimate = trace(A, tolerance=0.01, max_sketch=8, block=5, generator=seeded(0))
    assert widths[:2] == [8, 8]
    assert max(widths[2:]) == 5
    assert sum(widths) == estimate.products


def test_zero_maps_without_symmetry_and_seeds(seeded):
    zero = trace(torch.zeros(100, 100), generator=seeded(0))
    assert (zero.value, zero.standard_error, zero.converged) == (0, 0, True)
    A = torch.randn(200, 200, generator=seeded(1), dtype=torch.float64) + 2 * torch.eye(200)
    first, second = (trace(A, tolerance=0.05, generator=seeded(4)) for _ in range(2))
    assert torch.equal(first.samples, second.samples)
    assert abs(first.value - float(A.trace())) < 4 * first.standard_error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tolerance": 0.0}, "tolerance must be positive"),
        ({"absolute": -1.0}, "absolute must not be negative; got -1"),
        ({"max_products": 35}, "max_products must be at least 36; got 35"),
        ({"max_sketch": 7}, "max_sketch must be at least 8; got 7"),
        ({"block": 0}, "block must be at least 1; got 0"),
    ],
)
def test_bad_settings_are_refused(seeded, arguments, message):
    with pytest.raises(SettingError, match=message):
        trace(torch.eye(3), generator=seeded(0), **arguments)


def test_bad_maps_are_refused(seeded):
    with pytest.raises(SettingError, match="trace needs a square map"):
        trace(torch.ones(2, 3), generator=seeded(0))
    with pytest.raises(NumericalError, match="Products of FunctionMap"):
        trace(FunctionMap(lambda x: x / 0, (99, 99)), generator=seeded(0))
