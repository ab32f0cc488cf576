from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import binomtest
from torch import Tensor

from torchstone.errors import NumericalError, SettingError
from torchstone.linalg import (
    FunctionMap,
    TraceEstimate,
    draw_probes,
    exact_trace,
    gaussian_variance,
    hutch_plus_plus,
    hutchinson_diagonal,
    hutchinson_trace,
    rademacher_variance,
)
from torchstone.linalg.as_linear_map import as_linear_map

VARIANCE = {"rademacher": rademacher_variance, "gaussian": gaussian_variance}
DISTRIBUTIONS = tuple(VARIANCE)


def matrix(seeded, n: int = 20) -> Tensor:
    """Not symmetric, with a trace that matters."""
    return torch.randn(n, n, generator=seeded(1), dtype=torch.float64) + 0.3 * torch.eye(n).double()


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_variance_formulas_against_simulation(seeded, distribution):
    # 2e5 probes leave a relative standard error of about 0.5% on the variance; 3% is six of those.
    A = matrix(seeded)
    X = draw_probes(as_linear_map(A), 200_000, seeded(0), distribution)
    samples = (X * (A @ X)).sum(dim=0)
    assert float(samples.var()) == pytest.approx(VARIANCE[distribution](A), rel=0.03)
    assert float(samples.mean()) == pytest.approx(
        float(A.trace()), abs=5 * math.sqrt(float(samples.var()) / 2e5)
    )


@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_rademacher_variance_equals_the_sum_over_all_sign_vectors(seeded, n):
    A = matrix(seeded, n)
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * n).reshape(-1, n).double()
    forms = torch.einsum("ji,ik,jk->j", signs, A, signs)
    assert float(forms.var(correction=0)) == pytest.approx(rademacher_variance(A), rel=1e-12, abs=1e-12)
    assert float(forms.mean()) == pytest.approx(float(A.trace()), rel=1e-12)


def test_variances_of_maps_and_of_diagonal_matrices(seeded):
    A = matrix(seeded)
    as_function = FunctionMap(lambda x: A @ x, (20, 20), torch.float64)
    assert rademacher_variance(as_function) == pytest.approx(rademacher_variance(A), rel=1e-12)
    diagonal = torch.diag(torch.tensor([1e8, 1.0, -3.0]))
    assert rademacher_variance(diagonal) == 0
    assert gaussian_variance(diagonal) == pytest.approx(2 * (1e16 + 10))


def test_rademacher_probes_are_exact_for_diagonal_maps(seeded):
    diagonal = torch.randn(50, generator=seeded(2), dtype=torch.float64)
    estimate = hutchinson_trace(torch.diag(diagonal), probes=7, generator=seeded(0))
    assert estimate.standard_error == 0
    assert estimate.value == pytest.approx(float(diagonal.sum()), rel=1e-14)
    adaptive = hutchinson_trace(torch.diag(diagonal), tolerance=1e-12, generator=seeded(0), min_probes=2)
    assert (adaptive.probes, adaptive.converged) == (2, True)


def covered(estimate: TraceEstimate, truth: float) -> bool:
    low, high = estimate.interval(0.95)
    return low <= truth <= high


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("settings", [{"probes": 10}, {"probes": 50}, {"tolerance": 0.1, "min_probes": 30}])
def test_intervals_cover_the_trace_as_often_as_they_say(seeded, with_spectrum, distribution, settings):
    A = with_spectrum(torch.arange(1, 101.0) ** -0.5)
    truth = float(A.trace())
    estimates = [
        hutchinson_trace(A, generator=seeded(seed), distribution=distribution, **settings)
        for seed in range(200)
    ]
    hits = sum(covered(estimate, truth) for estimate in estimates)
    assert binomtest(hits, 200, 0.95).pvalue > 0.01, f"{hits} of 200"
    # The errors themselves, not only their coverage: root mean square of z-scores near one.
    errors = torch.tensor([estimate.value - truth for estimate in estimates])
    if "probes" in settings:
        expected = math.sqrt(VARIANCE[distribution](A) / settings["probes"])
        assert float(errors.square().mean().sqrt()) == pytest.approx(expected, rel=0.2)


def test_the_tolerance_is_reached_or_said_to_be_missed(seeded, with_spectrum):
    A = with_spectrum(torch.linspace(1, 100, 60))
    reached = hutchinson_trace(A, tolerance=0.02, generator=seeded(0))
    assert reached.converged
    assert reached.standard_error <= 0.02 * abs(reached.value)
    assert reached.probes == len(reached.samples) == reached.products >= 20
    missed = hutchinson_trace(A, tolerance=1e-6, max_probes=25, generator=seeded(0))
    assert not missed.converged
    assert missed.probes == 25
    assert missed.standard_error > 1e-6 * abs(missed.value)


def test_the_standard_error_is_that_of_the_samples(seeded):
    estimate = hutchinson_trace(matrix(seeded), probes=11, block=4, generator=seeded(0))
    assert estimate.value == pytest.approx(float(estimate.samples.mean()))
    assert estimate.standard_error == pytest.approx(float(estimate.samples.std()) / math.sqrt(11))
    assert estimate.samples.dtype == torch.float64
    single = hutchinson_trace(matrix(seeded), probes=1, generator=seeded(0))
    assert single.standard_error == math.inf
    assert single.interval() == (-math.inf, math.inf)


def test_blocks_change_the_products_and_not_the_probes(seeded):
    A = matrix(seeded)
    one, ten = (hutchinson_trace(A, probes=20, block=block, generator=seeded(0)) for block in (1, 20))
    again = hutchinson_trace(A, probes=20, block=20, generator=seeded(0))
    assert one.probes == ten.probes
    assert torch.equal(ten.samples, again.samples)


def test_float32_maps_are_summed_in_float64(seeded):
    diagonal = torch.full((100_000,), 0.1)
    A = FunctionMap(lambda X: diagonal[:, None] * X, (100_000, 100_000), block=True)
    estimate = hutchinson_trace(A, probes=2, generator=seeded(0))
    assert estimate.value == pytest.approx(float(diagonal.double().sum()), rel=1e-12)


@pytest.mark.parametrize("n", [1, 7, 130])
def test_exact_trace(seeded, n):
    A = matrix(seeded, n)
    widths = []

    def product(X: Tensor) -> Tensor:
        widths.append(X.shape[1])
        return A @ X

    counted = FunctionMap(product, (n, n), torch.float64, block=True)
    assert exact_trace(counted) == pytest.approx(float(torch.linalg.eigvals(A).sum().real), rel=1e-9)
    assert sum(widths) == n


def test_hutch_plus_plus_with_more_products_than_rows_is_exact(seeded):
    for n in (1, 2, 5):  # square matrices of signs are often singular
        A = torch.randn(n, n, generator=seeded(n), dtype=torch.float64)
        for seed in range(10):
            estimate = hutch_plus_plus(A, products=max(3, n), generator=seeded(seed))
            assert estimate.value == pytest.approx(float(A.trace()), rel=1e-12)
            assert (estimate.standard_error, estimate.products) == (0, n)


def test_hutch_plus_plus_is_exact_for_low_rank(seeded):
    factor = torch.randn(40, 4, generator=seeded(0), dtype=torch.float64)
    A = factor @ factor.T
    estimate = hutch_plus_plus(A, products=18, generator=seeded(1))
    assert estimate.value == pytest.approx(float(A.trace()), rel=1e-12)
    assert estimate.standard_error < 1e-12 * float(A.trace())
    assert estimate.products == 6 + 4 + 6, "the range has rank 4"
    zero = hutch_plus_plus(torch.zeros(9, 9), products=6, generator=seeded(0))
    assert (zero.value, zero.standard_error) == (0, 0)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_hutch_plus_plus_covers_and_beats_hutchinson_on_decaying_spectra(seeded, with_spectrum, distribution):
    A = with_spectrum(torch.arange(1, 201.0) ** -1.5)
    truth = float(A.trace())
    ours = [
        hutch_plus_plus(A, products=60, distribution=distribution, generator=seeded(s)) for s in range(200)
    ]
    plain = [
        hutchinson_trace(A, probes=60, distribution=distribution, generator=seeded(s)) for s in range(200)
    ]
    hits = sum(covered(estimate, truth) for estimate in ours)
    assert binomtest(hits, 200, 0.95).pvalue > 0.01, f"{hits} of 200"
    assert all(estimate.products == 60 for estimate in ours)

    def error(estimates: list[TraceEstimate]) -> float:
        return math.sqrt(sum((estimate.value - truth) ** 2 for estimate in estimates) / len(estimates))

    assert error(ours) < error(plain) / 4


def test_hutch_plus_plus_is_unbiased_without_symmetry(seeded):
    A = matrix(seeded)
    values = torch.tensor([hutch_plus_plus(A, products=12, generator=seeded(s)).value for s in range(1000)])
    assert abs(float(values.mean()) - float(A.trace())) < 4 * float(values.std()) / math.sqrt(1000)


@pytest.mark.parametrize("block", [1, 7, 64])
def test_diagonal_estimates_and_their_errors(seeded, block):
    A = matrix(seeded)
    estimate = hutchinson_diagonal(A, probes=4000, block=block, generator=seeded(0))
    exact_errors = ((A.square().sum(dim=1) - A.diagonal().square()) / 4000).sqrt()
    torch.testing.assert_close(estimate.standard_errors, exact_errors, rtol=0.1, atol=0)
    scores = (estimate.values - A.diagonal()) / exact_errors
    assert float(scores.abs().max()) < 4


def test_diagonal_intervals_cover_as_often_as_they_say(seeded):
    A = matrix(seeded)
    hits = 0
    for seed in range(200):  # one entry a repeat: entries of one repeat are dependent
        estimate = hutchinson_diagonal(A, probes=100, generator=seeded(seed))
        hits += bool(
            (estimate.values - A.diagonal()).abs()[seed % 20] <= 1.984 * estimate.standard_errors[seed % 20]
        )
    assert binomtest(hits, 200, 0.95).pvalue > 0.01, f"{hits} of 200"


def test_diagonals_of_diagonal_maps_are_exact(seeded):
    exact = torch.randn(9, generator=seeded(0), dtype=torch.float64)
    estimate = hutchinson_diagonal(torch.diag(exact), probes=25, generator=seeded(0))
    torch.testing.assert_close(estimate.values, exact, rtol=1e-15, atol=0)
    assert float(estimate.standard_errors.max()) < 1e-15
    single = hutchinson_diagonal(torch.diag(exact), probes=1, generator=seeded(0))
    assert bool(single.standard_errors.isinf().all())


def test_the_same_seed_gives_the_same_bits(seeded):
    A, before = matrix(seeded), torch.random.get_rng_state()
    for estimate in (hutchinson_trace, hutchinson_diagonal):
        first, second = (estimate(A, probes=9, generator=seeded(3)) for _ in range(2))
        value = "values" if estimate is hutchinson_diagonal else "samples"
        assert torch.equal(getattr(first, value), getattr(second, value))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either probes or a tolerance; got neither"),
        ({"probes": 3, "tolerance": 0.1}, "either probes or a tolerance; got both"),
        ({"probes": 0}, "probes must be at least 1; got 0"),
        ({"probes": 3, "block": 0}, "block must be at least 1"),
        ({"probes": 3, "distribution": "uniform"}, "distribution must be rademacher or gaussian"),
        ({"tolerance": 0.0}, "tolerance must be positive"),
        ({"tolerance": math.nan}, "tolerance must be positive"),
        ({"tolerance": 0.1, "min_probes": 1}, "min_probes must be at least 2"),
        ({"tolerance": 0.1, "max_probes": 19}, "max_probes must be at least 20"),
    ],
)
def test_bad_settings_are_refused(seeded, arguments, message):
    with pytest.raises(SettingError, match=message):
        hutchinson_trace(torch.eye(3), generator=seeded(0), **arguments)


def test_bad_settings_of_the_others_are_refused(seeded):
    with pytest.raises(SettingError, match="products must be at least 3; got 2"):
        hutch_plus_plus(torch.eye(3), products=2, generator=seeded(0))
    with pytest.raises(SettingError, match="probes must be at least 1; got 0"):
        hutchinson_diagonal(torch.eye(3), probes=0, generator=seeded(0))
    with pytest.raises(SettingError, match="block must be at least 1; got 0"):
        hutchinson_diagonal(torch.eye(3), probes=1, block=0, generator=seeded(0))
    with pytest.raises(SettingError, match="block must be at least 1; got 0"):
        exact_trace(torch.eye(3), block=0)
    with pytest.raises(SettingError, match="confidence must lie between 0 and 1"):
        hutchinson_trace(torch.eye(3), probes=3, generator=seeded(0)).interval(1.0)


@pytest.mark.parametrize(
    "routine",
    [
        lambda A, generator: hutchinson_trace(A, probes=3, generator=generator),
        lambda A, generator: hutch_plus_plus(A, products=3, generator=generator),
        lambda A, generator: hutchinson_diagonal(A, probes=3, generator=generator),
        lambda A, _: exact_trace(A),
        lambda A, _: rademacher_variance(A),
        lambda A, _: gaussian_variance(A),
    ],
)
def test_maps_that_are_not_square_or_not_finite_are_refused(seeded, routine):
    with pytest.raises(SettingError, match="needs a square map"):
        routine(torch.ones(2, 3), seeded(0))
    with pytest.raises(NumericalError, match="Products of FunctionMap"):
        routine(FunctionMap(lambda x: x / 0, (3, 3)), seeded(0))
