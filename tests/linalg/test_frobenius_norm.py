from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import binomtest

from torchstone.errors import NumericalError, SettingError
from torchstone.linalg import FunctionMap, frobenius_norm, gaussian_variance, rademacher_variance

VARIANCE = {"rademacher": rademacher_variance, "gaussian": gaussian_variance}


def rectangle(seeded, power: float = 0.5) -> torch.Tensor:
    matrix = torch.randn(60, 90, generator=seeded(0), dtype=torch.float64)
    return matrix * torch.arange(1, 91.0).double() ** -power


@pytest.mark.parametrize("distribution", VARIANCE)
@pytest.mark.parametrize("settings", [{"probes": 8}, {"probes": 40}, {"tolerance": 0.03}])
def test_unbiased_with_bars_that_cover(seeded, distribution, settings):
    A = rectangle(seeded)
    truth = float(A.square().sum())
    estimates = [
        frobenius_norm(A, **settings, distribution=distribution, generator=seeded(s)) for s in range(200)
    ]
    hits = sum(e.interval()[0] <= math.sqrt(truth) <= e.interval()[1] for e in estimates)
    # Stopping on an estimated error costs a little coverage.
    said = 0.95 if "probes" in settings else 0.92
    assert binomtest(hits, 200, said, alternative="less").pvalue > 0.01, f"{hits} of 200"
    squares = torch.tensor([e.squared.value for e in estimates])
    if "probes" in settings:
        expected = math.sqrt(VARIANCE[distribution](A.T @ A) / settings["probes"])
        assert float(squares.std()) == pytest.approx(expected, rel=0.2)
        assert abs(float(squares.mean()) - truth) < 4 * expected / math.sqrt(200)
    else:
        assert all(e.standard_error <= 0.03 * e.value and e.squared.converged for e in estimates)


def test_the_worst_case_is_rank_one(seeded):
    A = torch.outer(torch.ones(5), torch.ones(400)).double()
    values = torch.tensor([frobenius_norm(A, probes=50, generator=seeded(s)).value for s in range(200)])
    relative = float((values / math.sqrt(2000) - 1).square().mean().sqrt())
    assert relative == pytest.approx(math.sqrt(1 / 100), rel=0.25)


@pytest.mark.parametrize(("m", "n"), [(1, 1), (7, 3), (3, 7), (4, 100)])
def test_no_fewer_probes_than_columns_is_exact(seeded, m, n):
    A = torch.randn(m, n, generator=seeded(0), dtype=torch.float64)
    estimate = frobenius_norm(A, probes=n, generator=seeded(0))
    assert estimate.value == pytest.approx(float(torch.linalg.matrix_norm(A)), rel=1e-12)
    assert (estimate.standard_error, estimate.squared.products) == (0, n)
    assert frobenius_norm(A, generator=seeded(0)).value == pytest.approx(estimate.value, rel=1e-12)


def test_one_probe_zero_and_huge_maps(seeded):
    A = rectangle(seeded)
    assert frobenius_norm(A, probes=1, generator=seeded(0)).interval() == (0, math.inf)
    zero = frobenius_norm(torch.zeros(4, 200), generator=seeded(0))
    assert (zero.value, zero.standard_error, zero.interval()) == (0, 0, (0, 0))
    huge = frobenius_norm(1e30 * rectangle(seeded).float(), probes=30, generator=seeded(0))
    assert huge.value == pytest.approx(1e30 * float(torch.linalg.matrix_norm(A)), rel=0.3)
    missed = frobenius_norm(A, tolerance=1e-9, max_probes=25, generator=seeded(0))
    assert (missed.squared.converged, missed.squared.probes) == (False, 25)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"probes": 0}, "probes must be at least 1; got 0"),
        ({"probes": 3, "tolerance": 0.1}, "frobenius_norm takes probes or a tolerance; got both"),
        ({"tolerance": 0.0}, r"tolerance must be positive; got 0\.0"),
        ({"tolerance": 0.1, "max_probes": 19}, "max_probes must be at least 20; got 19"),
        ({"block": 0}, "block must be at least 1; got 0"),
    ],
)
def test_bad_settings_are_refused(seeded, arguments, message):
    with pytest.raises(SettingError, match=message):
        frobenius_norm(torch.eye(3), generator=seeded(0), **arguments)


def test_products_that_are_not_finite_are_refused(seeded):
    with pytest.raises(NumericalError, match="Products of FunctionMap"):
        frobenius_norm(FunctionMap(lambda x: x[:3] / 0, (3, 300)), generator=seeded(0))
