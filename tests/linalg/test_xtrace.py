from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import binomtest
from torch import Tensor

from torchstone.errors import NumericalError, SettingError
from torchstone.linalg import (
    FunctionMap,
    as_linear_map,
    draw_probes,
    hutch_plus_plus,
    hutchinson_diagonal,
    xdiag,
    xtrace,
)

N = 100


def matrices(seeded, with_spectrum) -> dict[str, Tensor]:
    ranks = torch.arange(1, N + 1.0).double()
    square = torch.randn(N, N, generator=seeded(1), dtype=torch.float64)
    return {
        "even": with_spectrum(1 + ranks / N),
        "indefinite": with_spectrum(torch.linspace(-1, 1.3, N) ** 3),
        "power": with_spectrum(ranks**-2),
        "geometric": with_spectrum(0.8**ranks),
        "step": with_spectrum(torch.where(ranks <= 10, 1.0, 1e-4)),
        "not symmetric": square + 0.3 * torch.eye(N),
        "not symmetric, decaying": square @ torch.diag(ranks**-1.5) @ square,
    }


NAMES = ("even", "indefinite", "power", "geometric", "step", "not symmetric", "not symmetric, decaying")


def leave_one_out(A: Tensor, W: Tensor) -> tuple[Tensor, Tensor]:
    """The samples of XTrace and XDiag by their definition: a basis and products of its own for every vector."""
    n, m = W.shape
    traces, diagonals = [], []
    for i in range(m):
        Q = torch.linalg.qr(A @ W[:, [j for j in range(m) if j != i]]).Q
        u = W[:, i] - Q @ (Q.T @ W[:, i])
        traces.append((Q.T @ A @ Q).trace() + (n - m + 1) * (u @ A @ u) / (u @ u))
        image = A @ W[:, i]
        diagonals.append((Q @ Q.T @ A).diagonal() + W[:, i] * (image - Q @ (Q.T @ image)))
    return torch.stack(traces), torch.stack(diagonals)


def unbiased_variance(samples: Tensor, without: Tensor) -> Tensor:
    """samples (m, ...); without[i, j] is sample i where vector j is left out too."""
    m = len(samples)
    pairs = [(i, j) for i in range(m) for j in range(m) if i != j]
    products = [(samples[i] - without[i, j]) * (samples[j] - without[j, i]) for i, j in pairs]
    return samples.var(dim=0) / m + torch.stack(products).mean(dim=0).abs()


def pairwise(A: Tensor, W: Tensor, which: int) -> Tensor:
    m = W.shape[1]
    rows = torch.zeros(m, m, *(() if which == 0 else (len(A),))).double()
    for j in range(m):
        others = [i for i in range(m) if i != j]
        rows[others, j] = leave_one_out(A, W[:, others])[which]
    return rows


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("m", [2, 3, 7])
def test_trace_equals_its_definition_with_its_error(seeded, with_spectrum, name, m):
    A = matrices(seeded, with_spectrum)[name]
    estimate = xtrace(A, products=2 * m, generator=seeded(3))
    W = draw_probes(as_linear_map(A), m, seeded(3))
    samples, _ = leave_one_out(A, W)
    torch.testing.assert_close(estimate.samples, samples, rtol=1e-9, atol=1e-11)
    assert estimate.value == pytest.approx(float(samples.mean()), rel=1e-10, abs=1e-12)
    expected = samples.var() / m if m == 2 else unbiased_variance(samples, pairwise(A, W, 0))
    assert estimate.standard_error == pytest.approx(math.sqrt(float(expected)), rel=1e-6, abs=1e-12)
    assert (estimate.products, estimate.probes, estimate.method) == (2 * m, m, "XTrace")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("m", [2, 3, 6])
def test_diagonal_equals_its_definition_with_its_errors(seeded, with_spectrum, name, m):
    A = matrices(seeded, with_spectrum)[name]
    estimate = xdiag(A, products=2 * m, generator=seeded(3))
    W = draw_probes(as_linear_map(A), m, seeded(3), "rademacher")
    _, samples = leave_one_out(A, W)
    torch.testing.assert_close(estimate.values, samples.mean(dim=0), rtol=1e-9, atol=1e-11)
    expected = samples.var(dim=0) / m if m == 2 else unbiased_variance(samples, pairwise(A, W, 1))
    torch.testing.assert_close(estimate.standard_errors, expected.sqrt(), rtol=1e-6, atol=1e-11)
    assert (estimate.products, estimate.probes) == (2 * m, m)


@pytest.mark.parametrize("name", NAMES)
def test_error_bars_of_the_trace_cover(seeded, with_spectrum, name):
    A = matrices(seeded, with_spectrum)[name]
    truth = float(A.trace())
    for m in (5, 20):
        estimates = [xtrace(A, products=2 * m, generator=seeded(seed)) for seed in range(200)]
        hits = sum(e.interval()[0] <= truth <= e.interval()[1] for e in estimates)
        assert binomtest(hits, 200, 0.95, alternative="less").pvalue > 0.01, f"{hits} of 200 at m = {m}"
        errors = torch.tensor([e.value - truth for e in estimates])
        assert abs(float(errors.mean())) < 4 * float(errors.std()) / math.sqrt(200)
    # The squared standard error is unbiased where the covariance is not small beside its noise.
    said = torch.tensor([e.standard_error for e in estimates]).square().mean().sqrt()
    if name not in ("geometric", "step"):
        assert float(said / errors.square().mean().sqrt()) == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("name", NAMES)
def test_error_bars_of_the_diagonal_cover(seeded, with_spectrum, name):
    A = matrices(seeded, with_spectrum)[name]
    hits = 0
    for seed in range(200):  # one entry a repeat: entries of one repeat are dependent
        estimate = xdiag(A, products=20, generator=seeded(seed))
        error = float((estimate.values - A.diagonal())[seed % N].abs())
        hits += error <= 2.262 * float(estimate.standard_errors[seed % N])
    assert binomtest(hits, 200, 0.95, alternative="less").pvalue > 0.01, f"{hits} of 200"


def root_mean_square(errors: list[Tensor]) -> float:
    return math.sqrt(sum(float(error.square().mean()) for error in errors) / len(errors))


def test_equal_products_give_far_smaller_errors_where_the_spectrum_decays(seeded, with_spectrum):
    A = with_spectrum(0.7 ** torch.arange(1, 201.0).double())
    truth = A.trace()
    ours = [xtrace(A, products=60, generator=seeded(s)).value - truth for s in range(40)]
    theirs = [hutch_plus_plus(A, products=60, generator=seeded(s)).value - truth for s in range(40)]
    assert root_mean_square(ours) < root_mean_square(theirs) / 20
    ours = [xdiag(A, products=60, generator=seeded(s)).values - A.diagonal() for s in range(20)]
    theirs = [hutchinson_diagonal(A, probes=60, generator=seeded(s)).values - A.diagonal() for s in range(20)]
    assert root_mean_square(ours) < root_mean_square(theirs) / 1000


@pytest.mark.parametrize("rank", [1, 4, 9, 10])
def test_low_rank_is_exact_once_the_vectors_outnumber_it(seeded, rank):
    left, right = (torch.randn(60, rank, generator=seeded(s), dtype=torch.float64) for s in (0, 1))
    A = left @ right.T
    scale = float(torch.linalg.matrix_norm(A))
    estimate = xtrace(A, products=22, generator=seeded(2))
    assert estimate.value == pytest.approx(float(A.trace()), abs=1e-11 * scale)
    assert estimate.standard_error < 1e-11 * scale
    assert estimate.products == 11 + rank, "the range has that dimension"
    diagonal = xdiag(A, products=22, generator=seeded(2))
    torch.testing.assert_close(diagonal.values, A.diagonal(), rtol=0, atol=1e-11 * scale)
    assert float(diagonal.standard_errors.max()) < 1e-11 * scale


def test_range_met_by_rounding_in_float32(seeded, with_spectrum):
    # Decay past the rounding error of the map: a tail of 1e-7 the top, which still makes 2% of the trace, must not be lost.
    eigenvalues = torch.cat([torch.ones(5), torch.full((3995,), 2.5e-5)]) * 100
    A = FunctionMap(lambda X: eigenvalues[:, None] * X, (4000, 4000), block=True, symmetric=True)
    estimate = xtrace(A, products=24, generator=seeded(0))
    assert estimate.value == pytest.approx(float(eigenvalues.sum()), rel=1e-3)
    steep = torch.cat([torch.ones(5), torch.full((3995,), 1e-8)])
    A = FunctionMap(lambda X: steep[:, None] * X, (4000, 4000), block=True, symmetric=True)
    assert xtrace(A, products=24, generator=seeded(0)).value == pytest.approx(float(steep.sum()), rel=1e-5)


@pytest.mark.parametrize(("n", "products"), [(1, 2), (5, 5), (5, 50), (130, 131)])
def test_no_fewer_products_than_dimensions_is_exact(seeded, n, products):
    A = torch.randn(n, n, generator=seeded(0), dtype=torch.float64)
    estimate = xtrace(A, products=products, generator=seeded(0))
    assert (estimate.method, estimate.standard_error, estimate.products) == ("exact", 0, n)
    assert estimate.interval() == (estimate.value, estimate.value)
    assert estimate.value == pytest.approx(float(A.trace()), rel=1e-12)
    diagonal = xdiag(A, products=products, generator=seeded(0))
    assert torch.equal(diagonal.values, A.diagonal())
    assert (float(diagonal.standard_errors.max()), diagonal.probes, diagonal.products) == (0, 0, n)


def test_one_vector_the_zero_map_and_seeds(seeded):
    A = torch.randn(30, 30, generator=seeded(0), dtype=torch.float64)
    assert xtrace(A, products=3, generator=seeded(0)).interval() == (-math.inf, math.inf)
    assert bool(xdiag(A, products=2, generator=seeded(0)).standard_errors.isinf().all())
    zero = xtrace(torch.zeros(30, 30), products=8, generator=seeded(0))
    assert (zero.value, zero.standard_error, zero.products) == (0, 0, 4)
    assert float(xdiag(torch.zeros(30, 30), products=8, generator=seeded(0)).values.abs().max()) == 0
    before = torch.random.get_rng_state()
    first, second = (xtrace(A, products=10, generator=seeded(5)).samples for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("routine", [xtrace, xdiag])
def test_bad_input_is_refused(seeded, routine):
    with pytest.raises(SettingError, match="products must be at least 2; got 1"):
        routine(torch.eye(3), products=1, generator=seeded(0))
    with pytest.raises(SettingError, match="needs a square map"):
        routine(torch.ones(2, 3), products=4, generator=seeded(0))
    with pytest.raises(NumericalError, match="Products of FunctionMap"):
        routine(FunctionMap(lambda x: x / 0, (9, 9), symmetric=True), products=4, generator=seeded(0))


def test_diagonals_need_the_transpose(seeded):
    with pytest.raises(SettingError, match="must know its transpose"):
        xdiag(FunctionMap(lambda x: x, (9, 9)), products=4, generator=seeded(0))
