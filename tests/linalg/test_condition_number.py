from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchstone.errors import SettingError
from torchstone.linalg import Conditioning, DenseMap, FunctionMap, condition_number


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 100))
@settings(max_examples=50, deadline=None)
def test_small_maps_of_any_shape_are_exact(seeded, m, n, seed):
    matrix = torch.randn(m, n, generator=seeded(seed), dtype=torch.float64)
    found = condition_number(matrix, generator=seeded(0))
    exact = float(torch.linalg.cond(matrix))
    assert found.kind is Conditioning.EXACT
    assert found.value == pytest.approx(exact, rel=1e-9)
    assert found.lower <= exact * (1 + 1e-9)
    assert found.upper >= exact * (1 - 1e-9)
    assert found.products == min(m, n)


SPECTRA = {
    "positive": torch.cat([torch.logspace(0, 2, 290), torch.tensor([0.5])]),
    "negative": -torch.linspace(1, 30, 300),
    "indefinite": torch.cat([-torch.linspace(1, 5, 100), torch.linspace(2, 9, 150), torch.tensor([-0.3])]),
    "indefinite, largest negative": torch.cat([-torch.linspace(1, 9, 100), torch.linspace(0.7, 5, 150)]),
    "one value": torch.full((250,), -2.0),
    "mirrored": torch.cat([torch.full((120,), -2.0), torch.full((130,), 2.0)]),
}


@pytest.mark.parametrize("name", SPECTRA)
def test_symmetric_maps_definite_or_not(seeded, with_spectrum, name):
    matrix, sizes = with_spectrum(SPECTRA[name]), SPECTRA[name].abs().double()
    exact = float(sizes.max() / sizes.min())
    found = condition_number(matrix, generator=seeded(0), relative=0.01, max_products=20_000, dense=0)
    assert found.kind is Conditioning.BOUNDED
    assert found.value == pytest.approx(exact, rel=0.02)
    assert found.lower <= exact * (1 + 1e-6)
    assert exact * (1 - 1e-6) <= found.upper < 1.1 * exact
    assert found.products <= 20_000


@pytest.mark.parametrize("shape", [(250, 180), (180, 250), (200, 200)])
def test_general_maps(seeded, shape):
    values = torch.cat([torch.linspace(20, 2, min(shape) - 1), torch.tensor([0.7])]).double()
    U = torch.linalg.qr(torch.randn(shape[0], len(values), generator=seeded(0), dtype=torch.float64)).Q
    V = torch.linalg.qr(torch.randn(shape[1], len(values), generator=seeded(1), dtype=torch.float64)).Q
    A = DenseMap((U * values) @ V.T)
    found = condition_number(A, generator=seeded(0), capacity=120, max_products=20_000, dense=0)
    assert found.kind is Conditioning.BOUNDED
    assert found.lower <= 20 / 0.7 * (1 + 1e-6)
    assert 20 / 0.7 * (1 - 1e-6) <= found.upper <= 1.2 * 20 / 0.7


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dense", [0, 1024])
def test_singular_maps_are_infinite(seeded, with_spectrum, dtype, dense):
    for spectrum in (torch.cat([torch.zeros(2), torch.linspace(1, 2, 198)]), torch.zeros(200)):
        matrix = with_spectrum(spectrum).to(dtype)
        found = condition_number(matrix, generator=seeded(0), dense=dense)
        assert found.kind is Conditioning.SINGULAR
        assert found.value == found.upper == math.inf
        assert "infinite" in found.kind.value


def test_a_small_end_that_has_not_converged_leaves_a_lower_bound(seeded):
    n, kappa = 2000, 1e8
    values = torch.logspace(-8, 0, n, dtype=torch.float64)
    A = FunctionMap(lambda X: values[:, None] * X, (n, n), torch.float64, block=True, symmetric=True)
    found = condition_number(A, generator=seeded(0), max_products=150, dense=0)
    assert found.kind is Conditioning.LOWER_BOUND
    assert found.upper == math.inf
    assert found.value == found.lower < kappa
    assert found.products <= 150
    # More products bring it nearer.
    more = condition_number(A, generator=seeded(0), max_products=600, dense=0)
    assert found.lower < more.lower <= kappa * (1 + 1e-6)


def test_a_definite_map_of_many_dimensions(seeded):
    n = 5000
    values = torch.linspace(0.01, 1, n, dtype=torch.float64)
    A = FunctionMap(lambda X: values[:, None] * X, (n, n), torch.float64, block=True, symmetric=True)
    found = condition_number(A, generator=seeded(0))
    assert found.kind is Conditioning.BOUNDED
    assert found.lower <= 100 * (1 + 1e-9)
    assert found.upper >= 100
    assert found.value == pytest.approx(100, rel=0.05)
    assert found.products < 2000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"relative": 0.0}, "relative must lie between 0 and 1"),
        ({"max_products": 31}, "max_products >= 32 and capacity >= 24; got 31 and 200"),
        ({"capacity": 23}, "got 5000 and 23"),
    ],
)
def test_bad_settings_are_refused(seeded, arguments, message):
    with pytest.raises(SettingError, match=message):
        condition_number(torch.eye(3), generator=seeded(0), **arguments)
