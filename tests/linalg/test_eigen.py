from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from torchstone.errors import NumericalError, SettingError
from torchstone.linalg import BlockLanczos, DenseMap, Eigenpairs, FunctionMap, draw_probes, top_eigenpairs

WHICH = ("largest", "smallest", "magnitude")


def wanted(matrix: Tensor, k: int, which: str) -> Tensor:
    """The first k eigenvalues by a dense eigendecomposition."""
    values = torch.linalg.eigvalsh(matrix.double())
    keys = {"largest": -values, "smallest": values, "magnitude": -values.abs()}
    return values[keys[which].argsort(stable=True)[:k]]


def assert_pairs(matrix: Tensor, pairs: Eigenpairs, k: int, which: str, accuracy: float) -> None:
    """Values against dense ones, residuals against their definition, vectors orthonormal."""
    exact, scale = wanted(matrix, k, which), max(float(torch.linalg.matrix_norm(matrix.double(), 2)), 1e-300)
    found = pairs.values.abs() if which == "magnitude" else pairs.values  # +-lambda tie
    exact = exact.abs() if which == "magnitude" else exact
    torch.testing.assert_close(found, exact, rtol=0, atol=accuracy * scale)
    V, rounding = pairs.vectors.double(), 40 * torch.finfo(pairs.vectors.dtype).eps
    residuals = torch.linalg.vector_norm(matrix.double() @ V - V * pairs.values, dim=0)
    torch.testing.assert_close(pairs.residuals, residuals, rtol=1e-2, atol=rounding * scale)
    assert float((V.T @ V - torch.eye(k, dtype=torch.float64)).abs().max()) < rounding


eigenvalues = st.one_of(st.sampled_from([-2.0, -1.0, 0.0, 1.0, 2.0]), st.floats(-3, 3, allow_subnormal=False))


@given(st.lists(eigenvalues, min_size=1, max_size=40), st.integers(1, 40), st.sampled_from(WHICH), st.data())
@settings(max_examples=150, deadline=None)
def test_any_spectrum_any_k_against_dense(seeded, with_spectrum, spectrum, k, which, data):
    k = min(k, len(spectrum))
    matrix = with_spectrum(torch.tensor(spectrum), seed=len(spectrum))
    block = data.draw(st.integers(1, min(k, 5)))
    pairs = top_eigenpairs(
        matrix,
        k,
        which=which,
        tolerance=1e-9,
        generator=seeded(data.draw(st.integers(0, 1000))),
        block=block,
        capacity=data.draw(st.sampled_from([None, 3 * k + 4 * block + 4])),
        max_products=40_000,
    )
    assert pairs.converged
    assert_pairs(matrix, pairs, k, which, accuracy=1e-8)


SPECTRA = {
    "multiple": torch.cat([torch.full((7,), 4.0), torch.linspace(-1, 3, 293)]),
    "clustered": torch.cat([10 + 1e-6 * torch.arange(7), torch.linspace(-1, 3, 293)]),
    "two multiples": torch.cat([torch.full((4,), 4.0), torch.full((5,), 3.9), torch.linspace(0, 3, 291)]),
    "negative": -torch.linspace(1, 300, 300),
    "both ends": torch.cat([torch.tensor([-9.0, 9.0, -8.0, 8.0, 8.0, -8.0]), torch.linspace(-1, 1, 294)]),
    "rank deficient": torch.cat([torch.tensor([5.0, 5.0, -1.0]), torch.zeros(297)]),
    "zero": torch.zeros(300),
    "identity": torch.ones(300),
    "power law": torch.arange(1, 301.0) ** -1.5,
    "huge range": torch.logspace(-12, 6, 300),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("which", WHICH)
@pytest.mark.parametrize("name", SPECTRA)
def test_hard_spectra_with_their_multiplicities(seeded, with_spectrum, name, which, dtype):
    matrix = with_spectrum(SPECTRA[name]).to(dtype)
    # The low end of the huge range is a continuum: its directions separate after some sqrt(1 / tolerance) products.
    tolerance = 1e-4 if dtype == torch.float32 or name == "huge range" else 1e-8
    pairs = top_eigenpairs(
        matrix, 8, which=which, tolerance=tolerance, generator=seeded(0), max_products=20_000
    )
    assert pairs.converged
    assert pairs.values.dtype == pairs.residuals.dtype == torch.float64
    assert pairs.vectors.dtype == dtype
    assert_pairs(matrix, pairs, 8, which, accuracy=tolerance)


@pytest.mark.parametrize("name", ["multiple", "both ends", "power law", "rank deficient"])
def test_the_default_tolerance_bounds_the_error_by_the_residuals(seeded, with_spectrum, name):
    matrix = with_spectrum(SPECTRA[name])
    pairs = top_eigenpairs(matrix, 5, generator=seeded(0))
    exact = wanted(matrix, 5, "largest")
    assert pairs.converged
    assert bool((pairs.residuals <= 1e-3 * SPECTRA[name].abs().max()).all())
    slack = 1e-12 * float(SPECTRA[name].abs().max())
    assert bool((pairs.values <= exact + slack).all()), "Ritz values lie below the eigenvalues they stand for"
    assert bool(((exact - pairs.values) <= pairs.residuals + slack).all())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("block", [1, 2, 3, 8])
@pytest.mark.parametrize(
    "name", ["multiple", "clustered", "two multiples", "rank deficient", "zero", "identity"]
)
def test_multiplicities_do_not_need_wide_products(seeded, with_spectrum, name, block, seed):
    matrix = with_spectrum(SPECTRA[name], seed)
    for k in (3, 8):
        pairs = top_eigenpairs(matrix, k, block=block, tolerance=1e-8, generator=seeded(seed))
        assert pairs.converged
        assert_pairs(matrix, pairs, k, "largest", 1e-8)


def test_copies_do_not_need_a_tight_tolerance(seeded, with_spectrum):
    # One vector converges on one copy and takes the next lower eigenvalue for the second: wrong by half of the norm.
    matrix = with_spectrum(torch.cat([torch.full((10,), 10.0), torch.linspace(0, 5, 490)]))
    for seed in range(8):
        pairs = top_eigenpairs(matrix, 10, block=1, generator=seeded(seed))
        torch.testing.assert_close(pairs.values, torch.full((10,), 10.0).double(), rtol=1e-3, atol=0)


def test_mixtures_of_both_ends_do_not_hide_the_first_by_magnitude(seeded, with_spectrum):
    # A mixture of eigenvectors of 3 and -3 has a small Ritz value and ranks behind exact copies of 1.
    for seed in range(30):
        signs = torch.randint(0, 4, (30,), generator=seeded(seed))
        matrix = with_spectrum(torch.tensor([0.0, 3.0, -3.0, 1.0])[signs], seed)
        pairs = top_eigenpairs(matrix, 6, which="magnitude", block=1, generator=seeded(seed))
        assert pairs.converged
        assert_pairs(matrix, pairs, 6, "magnitude", 1e-3)


def test_narrow_products_are_fewer(seeded, with_spectrum):
    matrix = with_spectrum(torch.cat([torch.linspace(2, 12, 10), torch.linspace(0, 0.5, 490)]))
    narrow, wide = (top_eigenpairs(matrix, 10, block=block, generator=seeded(0)) for block in (1, 10))
    assert_pairs(matrix, narrow, 10, "largest", 1e-4)
    assert narrow.products < 0.75 * wide.products


@pytest.mark.parametrize("n", [1, 2, 5])
def test_all_pairs_of_a_small_map(seeded, with_spectrum, n):
    matrix = with_spectrum(torch.linspace(-1, 1, n))
    for k in range(1, n + 1):
        for which in WHICH:
            pairs = top_eigenpairs(matrix, k, which=which, generator=seeded(0), tolerance=1e-10)
            assert_pairs(matrix, pairs, k, which, 1e-10)


@pytest.mark.parametrize("size", [1e-150, 1e150])
def test_tolerances_are_relative(seeded, with_spectrum, size):
    matrix = with_spectrum(torch.linspace(-1, 2, 100))
    plain = top_eigenpairs(matrix, 3, generator=seeded(0))
    scaled = top_eigenpairs(size * matrix, 3, generator=seeded(0))
    assert scaled.products == plain.products
    torch.testing.assert_close(scaled.values / size, plain.values, rtol=1e-9, atol=0)


def test_products_are_counted_and_memory_is_bounded(seeded, with_spectrum):
    matrix, widths = with_spectrum(torch.linspace(0, 1, 400)), []

    def product(X: Tensor) -> Tensor:
        widths.append(X.shape[1])
        return matrix @ X

    A = FunctionMap(product, (400, 400), torch.float64, block=True, symmetric=True)
    pairs = top_eigenpairs(A, 2, generator=seeded(0), capacity=18, tolerance=1e-4, max_products=5000)
    assert pairs.converged
    assert pairs.products == sum(widths) > 100, "many restarts"
    assert_pairs(matrix, pairs, 2, "largest", 1e-4)


def test_a_spent_budget_is_said_and_kept(seeded, with_spectrum):
    matrix = with_spectrum(torch.linspace(0, 1, 400))
    pairs = top_eigenpairs(matrix, 4, generator=seeded(0), max_products=50)
    assert not pairs.converged
    assert pairs.products <= 50
    residuals = torch.linalg.vector_norm(matrix @ pairs.vectors - pairs.vectors * pairs.values, dim=0)
    torch.testing.assert_close(pairs.residuals, residuals)


def test_products_too_inexact_for_the_tolerance_end_unconverged(seeded, with_spectrum):
    matrix = with_spectrum(torch.linspace(-1, 1, 100)).float()
    pairs = top_eigenpairs(matrix, 2, generator=seeded(0), tolerance=1e-10, max_products=10_000)
    assert not pairs.converged
    assert pairs.products < 2000
    assert_pairs(matrix, pairs, 2, "largest", 1e-5)


def test_products_by_finite_differences_are_inexact_but_not_refused(seeded, with_spectrum):
    matrix = with_spectrum(torch.linspace(-1, 1, 100))
    noise = torch.randn(100, 100, generator=seeded(1), dtype=torch.float64) * 1e-6
    pairs = top_eigenpairs(DenseMap(matrix + noise, symmetric=True), 3, generator=seeded(0), tolerance=1e-4)
    assert pairs.converged
    assert_pairs(matrix + noise, pairs, 3, "largest", 1e-4)


def test_the_same_seed_gives_the_same_bits_and_leaves_the_global_rng(seeded, with_spectrum):
    matrix, before = with_spectrum(torch.linspace(-1, 1, 80)), torch.random.get_rng_state()
    first, second = (top_eigenpairs(matrix, 3, generator=seeded(7)) for _ in range(2))
    assert torch.equal(first.vectors, second.vectors)
    assert torch.equal(first.values, second.values)
    assert torch.equal(before, torch.random.get_rng_state())


@given(st.integers(1, 30), st.integers(1, 5), st.integers(1, 5), st.integers(0, 50))
@settings(max_examples=60, deadline=None)
def test_block_lanczos_keeps_its_identity_through_growth_turns_and_restarts(
    seeded, with_spectrum, n, starts, columns, seed
):
    matrix = with_spectrum(torch.randint(-3, 4, (n,), generator=seeded(seed)).double(), seed)
    A = DenseMap(matrix)
    process = BlockLanczos(A, draw_probes(A, starts, seeded(seed)), capacity=n)
    for step in range(8):
        if process.exhausted:
            break
        process.expand(columns)
        if step % 3 == 1:
            process.turn(process.ritz().coefficients[:, -2:])
        if step % 3 == 2:
            process.restart(process.ritz().coefficients[:, : max(1, process.size // 2)])
        V, N = process.basis, process.fresh
        right = V @ process.projected + N @ process.coupling
        torch.testing.assert_close(matrix @ V, right, rtol=0, atol=3e-13)
        together = torch.cat([V, N], dim=1)
        eye = torch.eye(together.shape[1]).double()
        torch.testing.assert_close(together.T @ together, eye, rtol=0, atol=1e-13)
        ritz = process.ritz()
        Y = V @ ritz.coefficients
        explicit = torch.linalg.vector_norm(matrix @ Y - Y * ritz.values, dim=0)
        torch.testing.assert_close(ritz.residuals, explicit, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "k must be between 1 and 4; got 0"),
        ({"k": 5}, "k must be between 1 and 4; got 5"),
        ({"k": 1.5}, "k must be between 1 and 4; got 1.5"),
        ({"k": "2"}, "k must be between 1 and 4; got 2"),
        ({"block": 0}, "block must be between 1 and 4"),
        ({"block": 5}, "block must be between 1 and 4"),
        ({"which": "biggest"}, "which must be largest, smallest or magnitude; got 'biggest'"),
        ({"tolerance": 0.0}, "tolerance must lie between 0 and 1"),
        ({"tolerance": float("nan")}, "tolerance must lie between 0 and 1"),
        ({"capacity": 3}, "capacity must be at least 4"),
        ({"block": 2, "capacity": 3}, "capacity must be at least 4"),
        ({"max_products": 6}, "max_products must be at least 7"),
    ],
)
def test_bad_settings_are_refused(seeded, arguments, message):
    with pytest.raises(SettingError, match=message):
        top_eigenpairs(torch.eye(4), **({"k": 1, "generator": seeded(0)} | arguments))


def test_bad_maps_are_refused(seeded):
    with pytest.raises(SettingError, match="top_eigenpairs needs a square map"):
        top_eigenpairs(torch.ones(2, 3), 1, generator=seeded(0))
    with pytest.raises(SettingError, match="not declared symmetric"):
        top_eigenpairs(torch.ones(3, 3).triu(), 1, generator=seeded(0))
    with pytest.raises(NumericalError, match="Products of FunctionMap"):
        top_eigenpairs(FunctionMap(torch.sqrt, (9, 9), symmetric=True), 1, generator=seeded(0))
    asymmetric = torch.randn(30, 30, generator=seeded(0))
    with pytest.raises(NumericalError, match="is declared symmetric; got products that differ"):
        top_eigenpairs(DenseMap(asymmetric, symmetric=True), 2, generator=seeded(0))
