from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from torchstone.errors import NumericalError, SettingError
from torchstone.linalg import DenseMap, FunctionMap, Tridiagonalisation, lanczos


def assert_identity(A: Tensor, result: Tridiagonalisation, tolerance: float) -> None:
    """A Q = Q T + r e_m^T, Q^T Q = I and Q^T r = 0, relative to |A|."""
    Q, T, m = result.basis.double(), result.tridiagonal, result.diagonal.shape[0]
    scale = max(float(torch.linalg.matrix_norm(A.double(), 2)), 1e-300)
    right = Q @ T
    right[:, -1] += result.residual
    assert float((A.double() @ Q - right).abs().max()) <= tolerance * scale
    assert float((Q.T @ Q - torch.eye(m, dtype=torch.float64)).abs().max()) <= tolerance
    assert float((Q.T @ result.residual.double()).abs().max()) <= tolerance * scale


spectra = st.lists(
    st.one_of(st.integers(-2, 2).map(float), st.floats(-100, 100, allow_subnormal=False)),
    min_size=1,
    max_size=25,
)


@given(spectra, st.integers(1, 40), st.integers(0, 100))
@settings(max_examples=100, deadline=None)
def test_identity_and_orthogonality_for_any_spectrum(seeded, with_spectrum, spectrum, steps, seed):
    matrix = with_spectrum(torch.tensor(spectrum), seed)
    result = lanczos(matrix, steps, generator=seeded(seed))
    assert result.diagonal.shape[0] <= min(steps, len(spectrum))
    assert result.breakdown or result.diagonal.shape[0] == steps
    assert bool((result.off_diagonal > 0).all())
    assert_identity(matrix, result, 1e-12)


def test_orthogonality_holds_where_ritz_values_have_long_converged(seeded, with_spectrum):
    # Eigenvalues far apart: without reorthogonalisation, copies of the top one come back within a dozen steps.
    eigenvalues = torch.cat([torch.tensor([1e6, 1e3, 10.0]), torch.linspace(0, 1, 297)]).double()
    matrix = with_spectrum(eigenvalues)
    result = lanczos(matrix, 150, generator=seeded(0))
    assert_identity(matrix, result, 1e-12)
    ritz = torch.linalg.eigvalsh(result.tridiagonal)
    torch.testing.assert_close(ritz[-3:], torch.tensor([10.0, 1e3, 1e6]).double(), rtol=1e-9, atol=0)
    assert int((ritz > 5).sum()) == 3


def test_full_length_gives_all_eigenvalues(seeded, with_spectrum):
    eigenvalues = torch.linspace(-3, 5, 40).double()
    result = lanczos(with_spectrum(eigenvalues), 40, generator=seeded(0))
    assert result.breakdown
    assert float(result.residual.abs().max()) == 0
    torch.testing.assert_close(torch.linalg.eigvalsh(result.tridiagonal), eigenvalues, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("eigenvalues", "distinct"),
    [
        ([0.0] * 6, 1),
        ([3.0] * 6, 1),
        ([-1.0, 1.0] * 5, 2),
        ([5.0] + [0.0] * 9, 2),
        ([1e-9, 1.0, 1.0, 2.0], 3),
    ],
)
def test_breakdown_after_as_many_steps_as_there_are_distinct_eigenvalues(seeded, eigenvalues, distinct):
    result = lanczos(torch.diag(torch.tensor(eigenvalues).double()), 20, generator=seeded(0))
    assert result.breakdown
    assert result.diagonal.shape[0] == distinct
    assert float(result.residual.abs().max()) == 0
    found = torch.linalg.eigvalsh(result.tridiagonal)
    torch.testing.assert_close(found, torch.tensor(sorted(set(eigenvalues))).double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(10))
def test_directions_that_rounding_leaves_carry_no_weight(seeded, with_spectrum, seed):
    # A start with little of an eigenspace amplifies rounding past any threshold, and the process goes on from a
    # direction of the complement. The Gauss quadrature of the start must not notice.
    distinct = torch.tensor([1.0, 2.0, 5.0]).double()
    matrix = with_spectrum(distinct.repeat_interleave(100), seed)
    result = lanczos(matrix, 8, generator=seeded(seed))
    nodes, vectors = torch.linalg.eigh(result.tridiagonal)
    owner = (nodes[:, None] - distinct).abs() < 1e-12
    weights = (owner * vectors[0, :, None].square()).sum(dim=0)
    parts = result.basis[:, 0] @ torch.linalg.eigh(matrix).eigenvectors
    torch.testing.assert_close(weights, parts.square().reshape(3, 100).sum(dim=1), rtol=0, atol=1e-13)


@pytest.mark.parametrize("size", [1e-150, 1e150])
def test_huge_and_tiny_maps_are_no_breakdown(seeded, with_spectrum, size):
    eigenvalues = torch.linspace(1, 2, 10).double()
    result = lanczos(size * with_spectrum(eigenvalues), 10, generator=seeded(0))
    torch.testing.assert_close(
        torch.linalg.eigvalsh(result.tridiagonal / size), eigenvalues, rtol=0, atol=1e-12
    )


def test_float32_products_keep_float64_coefficients(seeded, with_spectrum):
    matrix = with_spectrum(torch.linspace(-1, 1, 200)).float()
    result = lanczos(matrix, 60, generator=seeded(0))
    assert result.basis.dtype == result.residual.dtype == torch.float32
    assert result.diagonal.dtype == result.off_diagonal.dtype == torch.float64
    assert_identity(matrix, result, 2e-6)


def test_the_start_is_the_first_basis_vector_and_seeds_repeat(seeded, with_spectrum):
    matrix = with_spectrum(torch.linspace(0, 1, 10))
    start = torch.arange(1.0, 11.0).double()
    torch.testing.assert_close(lanczos(matrix, 3, start=start).basis[:, 0], start / start.norm())
    first, second = (lanczos(matrix, 5, generator=seeded(3)) for _ in range(2))
    assert torch.equal(first.basis, second.basis)
    assert torch.equal(first.diagonal, second.diagonal)
    before = torch.random.get_rng_state()
    lanczos(matrix, 5, generator=seeded(4))
    assert torch.equal(before, torch.random.get_rng_state())


def test_products_with_a_graph_are_detached(seeded):
    matrix = torch.eye(4).requires_grad_()
    result = lanczos(DenseMap(2 * matrix), 2, generator=seeded(0))
    assert not result.diagonal.requires_grad
    assert not result.basis.requires_grad


def test_a_false_claim_of_symmetry_is_noticed(seeded):
    matrix = torch.randn(30, 30, generator=seeded(0), dtype=torch.float64)
    with pytest.raises(NumericalError, match="is declared symmetric; got products that differ"):
        lanczos(DenseMap(matrix, symmetric=True), 5, generator=seeded(1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"generator": None}, "either a generator or a start vector; got neither"),
        ({"start": torch.ones(3)}, "either a generator or a start vector; got both"),
        ({"generator": None, "start": torch.zeros(3)}, "start must not be zero"),
        ({"generator": None, "start": torch.ones(4)}, r"start must have shape \(3,\)"),
        ({"generator": None, "start": torch.ones(3).double()}, "start must have shape"),
    ],
)
def test_bad_settings_are_refused(seeded, arguments, message):
    with pytest.raises(SettingError, match=message):
        lanczos(torch.eye(3), **({"steps": 2, "generator": seeded(0)} | arguments))


def test_bad_maps_and_starts_are_refused(seeded):
    with pytest.raises(SettingError, match="lanczos needs a square map"):
        lanczos(torch.ones(2, 3), 2, generator=seeded(0))
    with pytest.raises(SettingError, match="not declared symmetric"):
        lanczos(FunctionMap(lambda x: x, (3, 3)), 2, generator=seeded(0))
    with pytest.raises(NumericalError, match="start must be finite"):
        lanczos(torch.eye(3), 2, start=torch.tensor([1.0, math.inf, 0.0]))
    with pytest.raises(NumericalError, match="Products of FunctionMap"):
        lanczos(FunctionMap(lambda x: x / 0, (3, 3), symmetric=True), 2, generator=seeded(0))
