from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from torchstone.errors import NumericalError, SettingError
from torchstone.linalg import (
    DenseMap,
    FunctionMap,
    GolubKahan,
    SingularTriplets,
    draw_probes,
    golub_kahan,
    randomised_svd,
    singular_triplets,
    singular_values,
)

End = Literal["largest", "smallest"]
ENDS: tuple[End, End] = ("largest", "smallest")


@pytest.fixture(scope="module")
def rectangular(seeded) -> Callable[..., Tensor]:
    """A dense (m, n) float64 matrix with given singular values and random singular vectors."""

    def make(values: Tensor, m: int, n: int, seed: int = 0) -> Tensor:
        k = len(values)
        U = torch.linalg.qr(torch.randn(m, k, generator=seeded(seed), dtype=torch.float64)).Q
        V = torch.linalg.qr(torch.randn(n, k, generator=seeded(seed + 1), dtype=torch.float64)).Q
        return (U * values.double()) @ V.T

    return make


def counted(matrix: Tensor) -> tuple[FunctionMap, list[int]]:
    """The map of a matrix, and the widths of its products."""
    widths = []

    def product(M: Tensor) -> Callable[[Tensor], Tensor]:
        def apply(X: Tensor) -> Tensor:
            widths.append(X.shape[1])
            return M @ X

        return apply

    shape = (matrix.shape[0], matrix.shape[1])
    forward, back = product(matrix), product(matrix.T)
    return FunctionMap(forward, shape, matrix.dtype, block=True, transpose=back), widths


def assert_triplets(matrix: Tensor, found: SingularTriplets, k: int, end: End, accuracy: float) -> None:
    """Values against dense ones, residuals against their definition, vectors orthonormal."""
    exact, M = torch.linalg.svdvals(matrix.double()), matrix.double()
    exact = exact[:k] if end == "largest" else exact.flip(0)[:k]
    scale = max(float(torch.linalg.svdvals(M)[0]), 1e-300)
    torch.testing.assert_close(found.values, exact, rtol=0, atol=accuracy * scale)
    U, V, eps = found.left.double(), found.right.double(), torch.finfo(matrix.dtype).eps
    forward = (M @ V - U * found.values).norm(dim=0)
    back = (M.T @ U - V * found.values).norm(dim=0)
    residuals = torch.hypot(forward, back) / math.sqrt(2)
    torch.testing.assert_close(found.residuals, residuals, rtol=1e-2, atol=60 * eps * scale)
    for vectors in (U, V):
        assert float((vectors.T @ vectors - torch.eye(k).double()).abs().max()) < 60 * eps


def assert_process(matrix: Tensor, process: GolubKahan, tolerance: float) -> None:
    """A V = U B, A^T U = V B^T + N C, and orthonormal bases."""
    U, V, N, B = process.left, process.right, process.fresh, process.projected
    torch.testing.assert_close(matrix @ V, U @ B, rtol=0, atol=tolerance)
    torch.testing.assert_close(matrix.T @ U, V @ B.T + N @ process.coupling, rtol=0, atol=tolerance)
    for basis in (U, torch.cat([V, N], dim=1)):
        eye = torch.eye(basis.shape[1]).double()
        torch.testing.assert_close(basis.T @ basis, eye, rtol=0, atol=1e-13)


@given(st.integers(1, 20), st.integers(0, 10), st.integers(1, 3), st.integers(0, 100))
@settings(max_examples=80, deadline=None)
def test_the_process_keeps_its_identities_through_turns_restarts_and_breakdowns(
    seeded, rectangular, n, extra, starts, seed
):
    values = torch.randint(0, 3, (n,), generator=seeded(seed)).double()
    matrix = rectangular(values, n + extra, n, seed)
    A = DenseMap(matrix, symmetric=False)
    process = GolubKahan(A, draw_probes(A, starts, seeded(seed)), n, seeded(seed))
    for step in range(12):
        if process.exhausted:
            process.inject(draw_probes(A, 1, seeded(step)))
            if process.exhausted:
                break
        process.expand()
        if step % 4 == 1 and not process.exhausted:
            process.turn(process.ritz().left[:, -1:])
        if step % 4 == 3:
            ritz = process.ritz()
            process.restart(ritz, torch.arange(max(1, process.size // 2)))
        assert_process(matrix, process, 3e-13)
        ritz = process.ritz()
        u, v = process.left @ ritz.left, process.right @ ritz.right
        torch.testing.assert_close(matrix @ v, u * ritz.values, rtol=0, atol=1e-12)
        rest = (matrix.T @ u - v * ritz.values).norm(dim=0)
        torch.testing.assert_close(ritz.residuals, rest, rtol=0, atol=1e-12)


@given(st.integers(1, 20), st.integers(0, 20), st.integers(1, 25), st.integers(0, 100))
@settings(max_examples=60, deadline=None)
def test_bidiagonalisation_identities(seeded, rectangular, n, extra, steps, seed):
    matrix = rectangular(torch.rand(n, generator=seeded(seed)), n + extra, n, seed)
    found = golub_kahan(matrix, steps, generator=seeded(seed))
    U, B, V, j = found.left, found.bidiagonal, found.right, found.bidiagonal.shape[0]
    torch.testing.assert_close(matrix @ V, U @ B, rtol=0, atol=1e-13)
    right = V @ B.T
    right[:, -1] += found.residual
    torch.testing.assert_close(matrix.T @ U, right, rtol=0, atol=1e-13)
    assert float((V.T @ found.residual).abs().max()) < 1e-13
    # The projection is B to rounding; far from its two diagonals it is rounding.
    assert float((B - B.triu().tril(1)).abs().max()) < 1e-13
    if found.breakdown:
        assert float(found.residual.abs().max()) == 0
    if j == n:
        exact = torch.linalg.svdvals(matrix)
        torch.testing.assert_close(torch.linalg.svdvals(B), exact, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("values", "distinct"), [([0.0] * 6, 1), ([3.0] * 6, 1), ([5.0, 5.0, 1.0, 0.0, 0.0], 3)]
)
def test_breakdown_at_rounding_of_the_norm(seeded, rectangular, values, distinct):
    for size in (1e-100, 1.0, 1e100):
        matrix = size * rectangular(torch.tensor(values), 9, len(values))
        found = golub_kahan(matrix, 9, generator=seeded(0))
        assert found.bidiagonal.shape[0] <= distinct + 1, "one more where a start amplifies rounding"
        assert found.breakdown


SPECTRA = {
    "apart": torch.cat([torch.linspace(10, 3, 8), torch.linspace(0, 1, 192)]),
    "multiple": torch.cat([torch.full((5,), 4.0), torch.linspace(0.5, 3, 195)]),
    "rank deficient": torch.cat([torch.tensor([5.0, 5.0, 1.0]), torch.zeros(197)]),
    "zero": torch.zeros(200),
    "isometry": torch.ones(200),
    "small end apart": torch.cat([torch.linspace(5, 2, 196), torch.tensor([0.4, 0.4, 0.2, 0.0])]),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(300, 200), (200, 300), (200, 200)])
@pytest.mark.parametrize("name", SPECTRA)
def test_largest_triplets_with_their_multiplicities(seeded, rectangular, name, shape, dtype):
    matrix = rectangular(SPECTRA[name], *shape).to(dtype)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-8
    A, widths = counted(matrix)
    found = singular_triplets(A, 6, tolerance=tolerance, generator=seeded(0), max_products=10_000)
    assert found.converged
    assert found.left.dtype == dtype
    assert found.products == sum(widths)
    assert_triplets(matrix, found, 6, "largest", tolerance)


@pytest.mark.parametrize("shape", [(300, 200), (200, 300)])
@pytest.mark.parametrize("k", [1, 4])
def test_smallest_triplets_where_they_stand_apart(seeded, rectangular, shape, k):
    matrix = rectangular(SPECTRA["small end apart"], *shape)
    found = singular_triplets(
        matrix, k, which="smallest", tolerance=1e-8, generator=seeded(0), capacity=80, max_products=20_000
    )
    assert found.converged
    assert_triplets(matrix, found, k, "smallest", 1e-8)


def test_small_singular_values_are_not_squared(seeded, rectangular):
    # A^T A would know 1e-10 to no digit: its square lies below the rounding errors of 1.
    values = torch.cat([torch.linspace(1, 2, 150), torch.tensor([1e-10])])
    matrix = rectangular(values, 200, 151)
    found = singular_triplets(
        matrix, 1, which="smallest", tolerance=1e-13, generator=seeded(0), capacity=140, max_products=9000
    )
    assert float(found.values[0]) == pytest.approx(1e-10, rel=1e-4)


@pytest.mark.parametrize("end", ENDS)
def test_a_residual_bounds_the_distance_to_a_singular_value(seeded, rectangular, end):
    matrix = rectangular(SPECTRA["apart"], 250, 200)
    found = singular_triplets(matrix, 5, which=end, generator=seeded(0), max_products=150)
    exact = torch.linalg.svdvals(matrix)
    distance = (found.values[:, None] - exact).abs().amin(dim=1)
    assert bool((distance <= found.residuals).all())
    ranked = exact[:5] if end == "largest" else exact.flip(0)[:5]
    inside = ranked - found.values if end == "largest" else found.values - ranked
    assert bool((inside >= -1e-12).all()), "Ritz values lie inside"
    beyond = exact > found.others if end == "largest" else exact < found.others
    assert int(beyond.sum()) <= 5


def test_spent_budgets_and_whole_spectra(seeded, rectangular):
    matrix = rectangular(torch.linspace(0, 1, 200), 300, 200)
    short = singular_triplets(matrix, 4, which="smallest", generator=seeded(0), max_products=40)
    assert not short.converged
    assert short.products <= 40
    A, widths = counted(matrix.T)
    torch.testing.assert_close(singular_values(A), torch.linalg.svdvals(matrix), rtol=0, atol=1e-12)
    assert sum(widths) == 200
    whole = singular_triplets(matrix.T, 200, generator=seeded(0))
    assert_triplets(matrix.T, whole, 200, "largest", 1e-12)
    assert whole.others == -math.inf


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 12), st.sampled_from(ENDS), st.integers(0, 50))
@settings(max_examples=60, deadline=None)
def test_any_small_shape(seeded, m, n, k, end, seed):
    k = min(k, m, n)
    matrix = torch.randint(-1, 2, (m, n), generator=seeded(seed)).double()
    found = singular_triplets(matrix, k, which=end, generator=seeded(seed), tolerance=1e-9)
    assert found.converged
    assert_triplets(matrix, found, k, end, 1e-9)


def test_huge_and_tiny_maps_give_the_same(seeded, rectangular):
    matrix = rectangular(SPECTRA["apart"], 250, 200)
    plain = singular_triplets(matrix, 3, generator=seeded(0))
    for size in (1e-140, 1e140):
        scaled = singular_triplets(size * matrix, 3, generator=seeded(0))
        assert scaled.products == plain.products
        torch.testing.assert_close(scaled.values / size, plain.values, rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "k must be between 1 and 3; got 0"),
        ({"k": 4}, "k must be between 1 and 3; got 4"),
        ({"k": 1.5}, "k must be between 1 and 3; got 1.5"),
        ({"which": "middle"}, "which must be largest or smallest; got 'middle'"),
        ({"tolerance": 1.0}, "tolerance must lie between 0 and 1"),
        ({"capacity": 2}, "capacity must be at least 3"),
        ({"max_products": 11}, "max_products must be at least 12"),
    ],
)
def test_bad_settings_are_refused(seeded, arguments, message):
    with pytest.raises(SettingError, match=message):
        singular_triplets(torch.ones(3, 4), **({"k": 1, "generator": seeded(0)} | arguments))


def test_bad_maps_are_refused(seeded):
    forward = FunctionMap(lambda x: x[:3], (3, 5))
    with pytest.raises(SettingError, match="must know its transpose"):
        singular_triplets(forward, 1, generator=seeded(0))
    with pytest.raises(SettingError, match="at least as many rows as columns"):
        golub_kahan(torch.ones(2, 3), 1, generator=seeded(0))
    with pytest.raises(SettingError, match="steps must be at least 1"):
        golub_kahan(torch.ones(3, 2), 0, generator=seeded(0))
    M = torch.randn(80, 60, generator=seeded(0), dtype=torch.float64)
    wrong = FunctionMap(lambda x: M @ x, (80, 60), torch.float64, transpose=lambda y: 2 * (M.T @ y))
    with pytest.raises(NumericalError, match=r"The transpose of FunctionMap.* products that differ by"):
        singular_triplets(wrong, 1, generator=seeded(0))
    infinite = FunctionMap(lambda x: x / 0, (60, 60), transpose=lambda y: y)
    with pytest.raises(NumericalError, match="Products of FunctionMap"):
        singular_triplets(infinite, 1, generator=seeded(0))


@pytest.mark.parametrize("shape", [(200, 120), (120, 200)])
def test_randomised_svd_against_dense_and_its_bound(seeded, rectangular, shape):
    values = torch.cat([torch.linspace(10, 5, 8), 2 * torch.arange(1, 113.0) ** -0.5])
    matrix = rectangular(values, *shape)
    for seed in range(20):
        A, widths = counted(matrix)
        found = randomised_svd(A, 8, generator=seeded(seed))
        assert found.products == sum(widths)
        exact = torch.linalg.svdvals(matrix)
        assert bool((found.values <= exact[:8] + 1e-12).all())
        assert bool((exact[:8] - found.values <= found.range_error).all())
        torch.testing.assert_close(found.values, exact[:8], rtol=1e-3, atol=0)
        rest = matrix - (found.left * found.values) @ found.right.T
        norm = float(torch.linalg.matrix_norm(rest, 2))
        assert norm <= found.error < 15 * float(exact[8])
        for vectors in (found.left, found.right):
            assert float((vectors.T @ vectors - torch.eye(8).double()).abs().max()) < 1e-12


def test_the_bound_of_few_probes_fails_as_seldom_as_it_says_and_power_iterations_help(seeded):
    # One direction left over is the hardest case: the probes see it by one normal variable each.
    A = DenseMap(torch.diag(torch.tensor([3.0, 1.0] + [0.0] * 18)).double())
    failures = 0
    for seed in range(300):
        found = randomised_svd(A, 1, oversampling=0, power_iterations=6, probes=2, generator=seeded(seed))
        failures += found.range_error < 1
    assert failures <= 3, "0.1% of 300 is 0.3"
    slow = torch.diag(torch.arange(1, 201.0).double() ** -0.3)
    errors = [
        float(1 - randomised_svd(slow, 1, power_iterations=q, generator=seeded(0)).values[0]) for q in (0, 4)
    ]
    assert errors[1] < errors[0] / 5


def test_randomised_svd_of_whole_zero_and_float32_maps(seeded, rectangular):
    matrix = rectangular(torch.linspace(1, 2, 5), 7, 5).float()
    whole = randomised_svd(matrix, 5, generator=seeded(0))
    assert whole.left.dtype == torch.float32
    assert whole.error < 1e-5
    torch.testing.assert_close(whole.values, torch.linspace(2, 1, 5).double(), rtol=1e-6, atol=0)
    zero = randomised_svd(torch.zeros(6, 4), 2, generator=seeded(0))
    assert zero.error == 0
    assert zero.values.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": 0}, "rank must be between 1 and 3"),
        ({"rank": 4}, "rank must be between 1 and 3"),
        ({"oversampling": -1}, "oversampling must be at least 0"),
        ({"power_iterations": -1}, "power_iterations must be at least 0"),
        ({"probes": 0}, "probes must be at least 1"),
    ],
)
def test_bad_settings_of_the_randomised_svd_are_refused(seeded, arguments, message):
    with pytest.raises(SettingError, match=message):
        randomised_svd(torch.ones(3, 4), **({"rank": 1, "generator": seeded(0)} | arguments))
