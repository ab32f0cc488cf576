from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from scipy.stats import binomtest, wasserstein_distance
from torch import Tensor

from torchstone.errors import NumericalError, SettingError
from torchstone.linalg import (
    Eigenpairs,
    FunctionMap,
    LanczosQuadrature,
    draw_probes,
    lanczos,
    lanczos_quadrature,
    top_eigenpairs,
)
from torchstone.linalg.as_linear_map import as_linear_map
from torchstone.linalg.bootstrap import bootstrap_band
from torchstone.linalg.spectral_density import smoothed


def distance(rules: LanczosQuadrature, spectrum: Tensor) -> float:
    """Wasserstein-1 to the exact spectrum, over its range."""
    n, d = rules.size, len(rules.known)
    weights = torch.cat([torch.full((d,), 1 / n).double(), (1 - d / n) * rules.weights.mean(0)])
    if rules.probes:
        weights = torch.cat([weights[:d], ((1 - d / n) * rules.weights / rules.probes).flatten()])
    nodes = torch.cat([rules.known, rules.nodes.flatten()])
    gap = wasserstein_distance(nodes.numpy(), spectrum.numpy(), weights.numpy())
    return float(gap) / float(spectrum.max() - spectrum.min())


def bulk_with_outliers(n: int = 150) -> Tensor:
    return torch.cat([torch.tensor([50.0, 20.0, 10.0]), torch.linspace(1, 0.1, n - 3)]).double()


@pytest.mark.parametrize("k", [2, 5, 9])
def test_quadratic_forms_of_powers_below_2k_are_exact(seeded, with_spectrum, k):
    eigenvalues = torch.linspace(-1, 2, 40)
    matrix = with_spectrum(eigenvalues)
    rules = lanczos_quadrature(matrix, probes=6, steps=k, generator=seeded(3))
    again = seeded(3)
    torch.randint(2**31, (), generator=again)  # the bootstrap's seed
    for v, nodes, weights in zip(
        draw_probes(as_linear_map(matrix), 6, again).T, rules.nodes, rules.weights, strict=True
    ):
        v = v / v.norm()
        for p in range(2 * k):
            exact = float(v @ torch.linalg.matrix_power(matrix, p) @ v)
            assert float(weights @ nodes**p) == pytest.approx(exact, rel=1e-9, abs=1e-12)
        beyond = float(v @ torch.linalg.matrix_power(matrix, 2 * k) @ v)
        assert float(weights @ nodes ** (2 * k)) < beyond * (1 - 1e-9), (
            "Gauss rules fall short from degree 2k on"
        )


def test_weights_are_first_components_and_not_those_of_the_first_eigenvector(seeded, with_spectrum):
    matrix = with_spectrum(torch.linspace(0, 1, 30) ** 3)
    start = draw_probes(as_linear_map(matrix), 1, seeded(1))[:, 0]
    T = lanczos(matrix, 6, start=start).tridiagonal
    nodes, vectors = torch.linalg.eigh(T)
    second_moment = float((matrix @ start) @ (matrix @ start) / (start @ start))
    assert float(vectors[0].square() @ nodes**2) == pytest.approx(second_moment, rel=1e-12)
    assert float(vectors[:, 0].square() @ nodes**2) != pytest.approx(second_moment, rel=0.01)


@pytest.mark.parametrize(
    "eigenvalues",
    [
        torch.linspace(1, 10, 500),
        torch.logspace(-2, 2, 500),
        1 / torch.arange(1, 501.0),
        torch.tensor([-3.0, 1.0]).repeat_interleave(250),
        torch.cat([torch.zeros(450), torch.linspace(1, 2, 50)]),
    ],
    ids=["even", "log", "power", "two", "low rank"],
)
def test_wasserstein_distance_to_the_spectrum(seeded, with_spectrum, eigenvalues):
    matrix = with_spectrum(eigenvalues)
    for seed in range(3):
        rules = lanczos_quadrature(matrix, probes=30, steps=30, generator=seeded(seed))
        assert distance(rules, eigenvalues.double()) < 0.02


def test_rules_that_end_early_are_exact_and_padded_without_weight(seeded, with_spectrum):
    matrix = with_spectrum(torch.tensor([-1.0, 2.0, 5.0]).repeat_interleave(20))
    rules = lanczos_quadrature(matrix, probes=5, steps=10, generator=seeded(0))
    torch.testing.assert_close(rules.weights.sum(dim=1), torch.ones(5).double())
    assert rules.complete.tolist() == [True] * 5
    assert rules.trace_of(torch.exp).quadrature_error == 0
    torch.testing.assert_close(rules.nodes[:, :3], torch.tensor([[-1.0, 2.0, 5.0]]).double().expand(5, 3))
    assert float(rules.weights[:, 3:].abs().max() if rules.weights.shape[1] > 3 else 0) < 1e-20
    assert rules.support == pytest.approx((-1.0, 5.0))
    curve = rules.distribution(torch.tensor([-1.0, 0.0, 2.0, 4.9]))
    assert curve.values[0] == curve.values[1] < curve.values[2] == curve.values[3], "nodes on the grid count"
    assert bool(((curve.low < 1 / 3) & (curve.high > 1 / 3))[:2].all())


def repeated(
    matrix: Tensor, probes: int, repeats: int, known: Eigenpairs | None, seeded: Any
) -> Iterator[LanczosQuadrature]:
    """Independent quadratures, of probes that were computed a hundred at a time."""
    for seed in range(probes * repeats // 100):
        many = lanczos_quadrature(matrix, probes=100, steps=20, generator=seeded(seed), known=known)
        for start in range(0, 100, probes):
            rows = slice(start, start + probes)
            names = ("nodes", "weights", "coarse_nodes", "coarse_weights", "complete")
            parts: Any = {name: getattr(many, name)[rows] for name in names}
            yield dataclasses.replace(many, seed=100 * seed + start, **parts)


@pytest.mark.parametrize("known", [0, 3])
@pytest.mark.parametrize("probes", [2, 10])
def test_bands_cover_the_density_and_the_distribution(seeded, with_spectrum, known, probes):
    # Without outliers, or with outliers that are known. A grid of a few points, of which each must be covered.
    eigenvalues = bulk_with_outliers(120) if known else torch.linspace(0.1, 1, 120).double()
    matrix = with_spectrum(eigenvalues)
    pairs = top_eigenpairs(matrix, 3, generator=seeded(0), tolerance=1e-12) if known else None
    grid = torch.tensor([0.05, 0.3, 0.55, 0.8, 1.02, 15.0]).double()
    density = smoothed(eigenvalues, torch.full((120,), 1 / 120).double(), grid, 0.08)
    share = (eigenvalues <= grid[:, None]).double().mean(dim=1)
    hits, below = torch.zeros(6), torch.zeros(6)
    for rules in repeated(matrix, probes, 200, pairs, seeded):
        curve, steps = rules.density(grid, width=0.08), rules.distribution(grid)
        hits += (curve.low - 1e-12 <= density) & (density <= curve.high + 1e-12)
        below += (steps.low - 1e-12 <= share) & (share <= steps.high + 1e-12)
    for count in hits.tolist():
        assert binomtest(int(count), 200, 0.95, alternative="less").pvalue > 0.01, hits
    assert float(hits[:5].mean()) < 199, "bands as wide as that say nothing"
    for count in below.tolist():
        assert binomtest(int(count), 200, 0.95, alternative="less").pvalue > 0.01, below


def test_densities_have_mass_one_and_say_their_width(seeded, with_spectrum):
    eigenvalues = bulk_with_outliers()
    matrix = with_spectrum(eigenvalues)
    pairs = top_eigenpairs(matrix, 3, generator=seeded(0), tolerance=1e-10)
    for known in (None, pairs):
        rules = lanczos_quadrature(matrix, probes=8, steps=20, generator=seeded(1), known=known)
        curve = rules.density()
        assert float(torch.trapezoid(curve.values, curve.grid)) == pytest.approx(1, abs=0.01)
        assert bool((curve.low <= curve.values).all())
        assert bool((curve.values <= curve.high).all())
        assert bool((curve.grid[1:] > curve.grid[:-1]).all())
        nodes = rules.nodes
        assert curve.width == pytest.approx(float(nodes.max() - nodes.min()) / 20)
        steps = rules.distribution()
        assert (float(steps.values[0]), float(steps.values[-1])) == (0, pytest.approx(1))
        assert bool((steps.values.diff() >= -1e-15).all())
    assert curve.width < 0.05, "known outliers do not coarsen the bulk"
    at = torch.tensor([50.0]).double()
    assert float(rules.density(at, width=0.1).values) == pytest.approx(
        1 / (150 * 0.1 * math.sqrt(2 * math.pi))
    )


def test_known_eigenpairs_are_exact_and_the_rest_unbiased(seeded, with_spectrum):
    eigenvalues = bulk_with_outliers()
    matrix = with_spectrum(eigenvalues)
    pairs = top_eigenpairs(matrix, 3, generator=seeded(0), tolerance=1e-12)
    truth, spread = float(eigenvalues.square().sum()), []
    for known in (None, pairs):
        values = [
            lanczos_quadrature(matrix, probes=4, steps=5, generator=seeded(seed), known=known)
            .trace_of(torch.square)
            .value
            for seed in range(100)
        ]
        errors = torch.tensor(values) - truth
        assert abs(float(errors.mean())) < 4 * float(errors.std()) / 10
        spread.append(float(errors.std()))
    assert spread[1] < spread[0] / 100
    rules = lanczos_quadrature(matrix, probes=4, steps=30, generator=seeded(0), known=pairs)
    torch.testing.assert_close(rules.known, eigenvalues[:3])
    assert float(rules.nodes.max()) < 1.0 + 1e-9, "nothing of the outliers is left in the complement"


def test_the_known_space_stays_out_where_the_complement_is_invariant_early(seeded, with_spectrum):
    # The complement has two eigenvalues; Lanczos runs into rounding there, and zero is no eigenvalue of A.
    eigenvalues = torch.cat([torch.full((30,), 3.0), torch.full((29,), 1.0), torch.tensor([1e5])]).double()
    matrix = with_spectrum(eigenvalues)
    pairs = top_eigenpairs(matrix, 1, generator=seeded(0), tolerance=1e-12)
    rules = lanczos_quadrature(matrix, probes=20, steps=30, generator=seeded(0), known=pairs)
    low, high = float(rules.nodes.min()), float(rules.nodes.max())
    assert 1 - 1e-6 < low < high < 3 + 1e-6
    assert rules.trace_of(torch.log).value == pytest.approx(float(eigenvalues.log().sum()), rel=0.2)


@pytest.mark.parametrize(("n", "probes"), [(1, 1), (1, 30), (7, 7), (7, 100)])
def test_no_fewer_probes_than_dimensions_means_all_eigenvalues(seeded, with_spectrum, n, probes):
    eigenvalues = torch.linspace(1, 3, n).double()
    rules = lanczos_quadrature(with_spectrum(eigenvalues), probes=probes, steps=5, generator=seeded(0))
    torch.testing.assert_close(rules.nodes, eigenvalues[None])
    assert (rules.exact, rules.probes, rules.products) == (True, 0, n)
    result = rules.trace_of(torch.log)
    assert result.value == pytest.approx(float(eigenvalues.log().sum()), rel=1e-12, abs=1e-14)
    assert (result.standard_error, result.quadrature_error) == (0, 0)
    curve = rules.density()
    assert torch.equal(curve.low, curve.high)
    assert float(torch.trapezoid(curve.values, curve.grid)) == pytest.approx(1, abs=0.01)


def test_more_steps_than_dimensions_one_probe_and_the_zero_map(seeded, with_spectrum):
    matrix = with_spectrum(torch.linspace(0, 1, 12))
    rules = lanczos_quadrature(matrix, probes=1, steps=50, generator=seeded(0))
    assert (rules.nodes.shape, rules.products, rules.probes) == ((1, 12), 12, 1)
    torch.testing.assert_close(rules.nodes[0], torch.linspace(0, 1, 12).double(), atol=1e-9, rtol=0)
    result = rules.trace_of(torch.exp)
    assert (result.standard_error, result.interval()) == (math.inf, (-math.inf, math.inf))
    curve = rules.density()
    assert float(curve.low.max()) == 0
    assert bool(curve.high.isinf().all())
    zero = lanczos_quadrature(torch.zeros(9, 9), probes=3, steps=4, generator=seeded(0))
    assert (zero.support, zero.products, zero.density().width) == ((0, 0), 3, 1.0)
    assert zero.trace_of(torch.exp).value == pytest.approx(9)
    assert zero.trace_of(torch.exp).standard_error < 1e-14


def test_float32_maps_blocks_and_seeds(seeded, with_spectrum):
    matrix = with_spectrum(torch.linspace(1, 2, 80))
    before = torch.random.get_rng_state()
    draw = functools.partial(lanczos_quadrature, probes=6, steps=10)
    first, second = (draw(matrix, generator=seeded(2)) for _ in range(2))
    assert torch.equal(first.nodes, second.nodes)
    assert torch.equal(first.density().low, second.density().low)
    assert torch.equal(before, torch.random.get_rng_state())
    narrow = draw(matrix, generator=seeded(2), block=1)
    assert narrow.products == first.products == 60
    single = draw(matrix.float(), generator=seeded(2))
    assert single.nodes.dtype == torch.float64
    assert single.trace_of(torch.sqrt).value == pytest.approx(
        float(torch.linspace(1, 2, 80).sqrt().sum()), rel=0.05
    )


def test_bad_input_is_refused(seeded):
    eye = torch.eye(20).double()
    pairs = top_eigenpairs(eye, 2, generator=seeded(0))
    for settings, message in [
        ({"probes": 0}, "probes must be at least 1; got 0"),
        ({"steps": 1}, "steps must be at least 2; got 1"),
        ({"block": 0}, "block must be at least 1; got 0"),
        (
            {"known": top_eigenpairs(torch.eye(5), 1, generator=seeded(0))},
            r"columns \(20, d\); got shape \(5, 1\)",
        ),
        (
            {"known": Eigenpairs(pairs.values, 2 * pairs.vectors, pairs.residuals, 0, True)},
            "known eigenvectors are orthonormal; got an error of 3",
        ),
    ]:
        with pytest.raises(SettingError, match=message):
            lanczos_quadrature(eye, **settings, generator=seeded(0))
    with pytest.raises(SettingError, match="lanczos_quadrature needs a symmetric map"):
        lanczos_quadrature(torch.ones(3, 3).triu(), generator=seeded(0))
    with pytest.raises(SettingError, match="needs a square map"):
        lanczos_quadrature(torch.ones(2, 3), generator=seeded(0))
    with pytest.raises(NumericalError, match="Products of FunctionMap"):
        lanczos_quadrature(FunctionMap(lambda x: x / 0, (30, 30), symmetric=True), generator=seeded(0))
    liar = FunctionMap(lambda x: torch.ones(30, 30).triu() @ x, (30, 30), symmetric=True)
    with pytest.raises(NumericalError, match="is declared symmetric"):
        lanczos_quadrature(liar, generator=seeded(0))
    with pytest.raises(NumericalError, match="entries that differ from their transposes by 1 of the largest"):
        lanczos_quadrature(liar, probes=30, generator=seeded(0))


def test_bad_questions_to_a_quadrature_are_refused(seeded, with_spectrum):
    rules = lanczos_quadrature(with_spectrum(torch.linspace(-1, 1, 20)), probes=4, generator=seeded(0))
    with pytest.raises(SettingError, match=r"width must be positive; got 0\.0"):
        rules.density(width=0.0)
    with pytest.raises(SettingError, match="confidence must lie between 0 and 1"):
        rules.density(confidence=1.0)
    with pytest.raises(
        NumericalError, match="f must be finite on the spectrum; got nan at the eigenvalue estimate -1"
    ):
        rules.trace_of(torch.log)
    with pytest.raises(SettingError, match=r"f takes and gives a tensor of one shape.* got shape \(\)"):
        rules.trace_of(torch.sum)


def test_bands_of_means_cover_skewed_curves(seeded):
    # Squares of normal numbers, as the weight of a single eigenvalue over probes is.
    for count, least in ((2, 0.8), (30, 0.9)):
        hits = 0
        for seed in range(300):
            curves = torch.randn(count, 1, generator=seeded(seed), dtype=torch.float64).square()
            low, high = bootstrap_band(curves, 0.95, seeded(seed), resamples=400)
            hits += bool(low <= 1 <= high)
            assert float(low) >= 0
        assert hits / 300 > least


class Killed(Exception):
    """Stands for a process that dies in the middle of a product."""


def mortal(matrix: Tensor, products: int) -> FunctionMap:
    left = [products]

    def product(x: Tensor) -> Tensor:
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return matrix @ x

    return FunctionMap(product, (matrix.shape[0], matrix.shape[1]), matrix.dtype, symmetric=True)


@pytest.mark.parametrize("outliers", [0, 3])
def test_a_killed_density_goes_on_to_the_same_bits(seeded, with_spectrum, tmp_path, monkeypatch, outliers):
    monkeypatch.setattr("torchstone.linalg.checkpoint._SHARE", 1e9)
    matrix, path = with_spectrum(bulk_with_outliers(60)), tmp_path / "density.safetensors"
    known = top_eigenpairs(matrix, outliers, tolerance=1e-10, generator=seeded(1)) if outliers else None
    arguments: Any = {"probes": 5, "steps": 8, "block": 2, "known": known}
    whole = lanczos_quadrature(mortal(matrix, 100), generator=seeded(0), **arguments)
    for products in (18, 20):  # in the second block of two probes, then in the third
        with pytest.raises(Killed):
            lanczos_quadrature(mortal(matrix, products), generator=seeded(0), checkpoint=path, **arguments)
    with pytest.raises(SettingError, match="must be of this map; got a quadratic form that differs by"):
        lanczos_quadrature(1.001 * matrix, generator=seeded(0), checkpoint=path, **arguments)
    with pytest.raises(
        SettingError, match=r"must be of this run \(steps=9\); got one of another \(steps=8\)"
    ):
        lanczos_quadrature(matrix, generator=seeded(0), checkpoint=path, **(arguments | {"steps": 9}))
    rest = mortal(matrix, 10)  # the fifth probe, one product to tell the map, and one for the known space
    resumed = lanczos_quadrature(rest, generator=seeded(0), checkpoint=path, **arguments)
    for name in ("nodes", "weights", "coarse_nodes", "coarse_weights", "complete", "known"):
        assert torch.equal(getattr(resumed, name), getattr(whole, name)), name
    assert (resumed.products, resumed.seed) == (whole.products, whole.seed)
    assert not path.exists()


def test_a_killed_exact_spectrum_goes_on(seeded, with_spectrum, tmp_path):
    matrix, path = with_spectrum(torch.linspace(-1, 2, 30)), tmp_path / "density"
    arguments: Any = {"probes": 30, "steps": 4, "checkpoint": path}
    with pytest.raises(Killed):
        lanczos_quadrature(mortal(matrix, 29), generator=seeded(0), **arguments)
    resumed = lanczos_quadrature(mortal(matrix, 11), generator=seeded(0), **arguments)  # one tells the map
    assert torch.equal(resumed.nodes, lanczos_quadrature(matrix, generator=seeded(0), **arguments).nodes)
    assert not path.exists()
