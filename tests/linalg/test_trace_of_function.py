from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import binomtest

from torchstone.errors import NumericalError, SettingError
from torchstone.linalg import (
    FunctionMap,
    lanczos_quadrature,
    log_determinant,
    top_eigenpairs,
    trace_of_function,
)


def test_log_determinant_of_500_within_one_percent(seeded, with_spectrum):
    # Through the quadrature itself: the front door computes 500 eigenvalues rather than 900 products.
    eigenvalues = torch.linspace(1, 10, 500).double()
    matrix = with_spectrum(eigenvalues)
    exact = float(torch.linalg.slogdet(matrix).logabsdet)
    for seed in range(5):
        rules = lanczos_quadrature(matrix, probes=30, steps=30, generator=seeded(seed))
        assert rules.trace_of(torch.log).value == pytest.approx(exact, rel=0.01)
    assert log_determinant(matrix, generator=seeded(0)).value == pytest.approx(exact, rel=1e-12)
    assert log_determinant(matrix, generator=seeded(0)).products == 500


@pytest.mark.parametrize(
    "f", [torch.log, torch.exp, torch.sqrt, torch.reciprocal, lambda x: (x > 2).double()]
)
def test_small_maps_are_exact(seeded, with_spectrum, f):
    eigenvalues = torch.linspace(0.5, 4, 60).double()
    result = trace_of_function(with_spectrum(eigenvalues), f, generator=seeded(0))
    assert result.value == pytest.approx(float(f(eigenvalues).sum()), rel=1e-12)
    assert (result.standard_error, result.quadrature_error, result.products) == (0, 0, 60)
    assert result.interval() == (result.value, result.value)


@pytest.mark.parametrize("probes", [3, 9])
@pytest.mark.parametrize("spread", [1, 4], ids=["condition 10", "condition 10,000"])
def test_intervals_cover_as_often_as_they_say(seeded, with_spectrum, probes, spread):
    eigenvalues = torch.logspace(-spread / 2, spread / 2, 150).double() + 0.5 * (spread == 1)
    matrix = with_spectrum(eigenvalues)
    truth, hits, errors = float(eigenvalues.log().sum()), 0, []
    for seed in range(200):
        result = log_determinant(matrix, probes=probes, steps=16, generator=seeded(seed))
        low, high = result.interval()
        hits += low <= truth <= high
        errors.append(result.value - truth)
        assert result.products == probes * 16
    assert binomtest(hits, 200, 0.95, alternative="less").pvalue > 0.01, f"{hits} of 200"
    if spread == 1:  # no quadrature error: the error is that of uniform vectors on the sphere
        centred = eigenvalues.log() - eigenvalues.log().mean()
        expected = math.sqrt(2 * 150 / 152 * float(centred.square().sum()) / probes)
        assert float(torch.tensor(errors).square().mean().sqrt()) == pytest.approx(expected, rel=0.15)
        assert hits < 200


def test_quadrature_error_falls_with_the_steps_and_is_said(seeded, with_spectrum):
    eigenvalues = torch.logspace(-2, 2, 400).double()
    matrix = with_spectrum(eigenvalues)
    converged = lanczos_quadrature(matrix, probes=4, steps=150, generator=seeded(0)).trace_of(torch.log)
    before = math.inf
    for steps in (5, 10, 20, 40):
        result = lanczos_quadrature(matrix, probes=4, steps=steps, generator=seeded(0)).trace_of(torch.log)
        missing = result.value - converged.value  # the same probes: only the quadrature differs
        assert 0 < missing < before, "Gauss rules overestimate the logarithm"
        assert result.quadrature_error > missing or steps < 20
        before = missing


def test_known_eigenpairs_sharpen_the_trace(seeded, with_spectrum):
    eigenvalues = torch.cat([torch.tensor([1e6, 1e5]), torch.linspace(1, 2, 198)]).double()
    matrix = with_spectrum(eigenvalues)
    pairs = top_eigenpairs(matrix, 2, generator=seeded(0), tolerance=1e-12)
    truth = float(eigenvalues.log().sum())
    plain, deflated = (
        log_determinant(matrix, probes=6, steps=12, generator=seeded(1), known=known)
        for known in (None, pairs)
    )
    assert deflated.standard_error < plain.standard_error / 3
    low, high = deflated.interval(0.999)
    assert low < truth < high


@pytest.mark.parametrize("n", [20, 2000])
@pytest.mark.parametrize("lowest", [0.0, -1.0, 1e-18])
def test_logarithms_of_maps_that_are_not_positive_definite_are_refused(seeded, n, lowest):
    diagonal = torch.linspace(1, 2, n).double()
    diagonal[: n // 4] = lowest
    A = FunctionMap(lambda x: diagonal * x, (n, n), torch.float64, symmetric=True)
    with pytest.raises(
        NumericalError, match=r"needs a positive definite map; got an eigenvalue estimate of .*damping"
    ):
        log_determinant(A, probes=4, steps=10, generator=seeded(0))


def test_bad_input_is_refused(seeded):
    for routine in (log_determinant, lambda A, **settings: trace_of_function(A, torch.exp, **settings)):
        with pytest.raises(SettingError, match="needs a symmetric map"):
            routine(torch.ones(3, 3).triu(), generator=seeded(0))
        with pytest.raises(SettingError, match="probes must be at least 1; got 0"):
            routine(torch.eye(3), probes=0, generator=seeded(0))
        with pytest.raises(SettingError, match="steps must be at least 2; got 1"):
            routine(torch.eye(3), steps=1, generator=seeded(0))
    with pytest.raises(NumericalError, match="f must be finite on the spectrum; got inf"):
        trace_of_function(torch.diag(torch.tensor([0.0, 1.0])), torch.reciprocal, generator=seeded(0))
