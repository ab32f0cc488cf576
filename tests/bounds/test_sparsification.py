"""Maurey's lemma: the promise is kept every time, the atoms are few, and nothing depends on the dimension."""

from __future__ import annotations

import math

import pytest
import torch

from torchstone.bounds.covering_bounds import matrix_log_cover
from torchstone.bounds.sparsification import maurey_sparsification, sparsify_linear
from torchstone.errors import NumericalError, SettingError


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("terms", [1, 2, 7, 60])
def test_the_promise_is_kept_for_every_hull(terms: int) -> None:
    for seed in range(25):
        generator = seeded(seed)
        atoms = torch.randn(40, 6, 3, generator=generator, dtype=torch.float64)
        weights = torch.rand(40, generator=generator, dtype=torch.float64) ** (1 + seed % 5)
        weights[seed % 40] = 0.0
        atoms[seed % 40] *= 1e-9  # an atom that would help but has no weight
        found = maurey_sparsification(atoms, weights, terms)
        target = torch.einsum("i,iab->ab", weights, atoms)
        reached = torch.einsum("i,iab->ab", found.weights, atoms)
        assert float((target - reached).norm()) == pytest.approx(found.error, abs=1e-10)
        alpha = float(weights.sum())
        second = float((weights * atoms.flatten(1).square().sum(1)).sum())
        assert found.bound == pytest.approx(
            math.sqrt((alpha * second - float(target.square().sum())) / terms)
        )
        assert found.error <= found.bound * (1 + 1e-9)
        counts = found.weights * terms / alpha
        torch.testing.assert_close(counts, counts.round(), rtol=0, atol=1e-9)
        assert int(counts.sum().round()) == terms
        assert float(found.weights[seed % 40]) == 0


def test_the_promise_is_tight_for_orthogonal_corners() -> None:
    # The mean of D unit vectors by k of them: squared distance 1/k - 1/D exactly.
    found = maurey_sparsification(torch.eye(50, dtype=torch.float64), torch.full((50,), 0.02), 10)
    assert found.error == pytest.approx(math.sqrt(1 / 10 - 1 / 50), rel=1e-6)
    assert found.error < found.bound  # which allows repeats
    alone = maurey_sparsification(torch.eye(50, dtype=torch.float64), torch.full((50,), 0.02), 1)
    assert alone.error == pytest.approx(alone.bound, rel=1e-6)


def test_it_keeps_the_promise_where_random_drawing_breaks_it() -> None:
    generator = seeded(1)
    atoms, weights = torch.randn(30, 20, generator=generator).double(), torch.full((30,), 1 / 30).double()
    found = maurey_sparsification(atoms, weights, 10)
    draws = torch.randint(30, (500, 10), generator=generator)
    errors = (atoms[draws].mean(dim=1) - weights @ atoms).norm(dim=1)
    assert float((errors.square().mean()).sqrt()) == pytest.approx(
        found.bound, rel=0.05
    )  # the lemma's own expectation
    assert bool((errors > found.bound).any())
    assert found.error < float(errors.min())


@pytest.mark.parametrize("terms", [1, 30, 400])
def test_linear_maps_by_few_weights(terms: int) -> None:
    for seed in range(5):
        generator = seeded(seed)
        x = torch.randn(40, 25, generator=generator, dtype=torch.float64) * torch.rand(
            25, generator=generator
        )
        x[:, 3] = 0.0
        weight = torch.randn(9, 25, generator=generator, dtype=torch.float64)
        found = sparsify_linear(x, weight, terms)
        assert float((x @ (weight - found.weights).T).norm()) == pytest.approx(found.error, rel=1e-9)
        assert int((found.weights != 0).sum()) <= terms
        assert found.error <= found.bound * (1 + 1e-9)
        norm = float(weight.norm(dim=1).sum() * x.norm())
        assert found.bound <= norm / math.sqrt(terms)


def test_the_number_of_terms_of_the_covering_bound_is_enough() -> None:
    # The lemma's cover: with ceil(a^2 b^2 / eps^2) terms every product is within eps of one of (2dm)^k sums.
    x = torch.randn(30, 12, generator=seeded(2), dtype=torch.float64)
    b = float(x.norm())
    for seed in range(10):
        weight = torch.randn(4, 12, generator=seeded(seed), dtype=torch.float64)
        a = float(weight.norm(dim=1).sum())
        for epsilon in (0.9 * a * b, 0.3 * a * b, 0.1 * a * b):
            terms = round(matrix_log_cover(b, a, epsilon, 12, 4) / math.log(2 * 12 * 4))
            assert terms == math.ceil((a * b / epsilon) ** 2)
            assert sparsify_linear(x, weight, terms).error <= epsilon


def test_zero_and_single_atoms() -> None:
    assert maurey_sparsification(torch.randn(4, 3, generator=seeded(3)), torch.zeros(4), 5).error == 0
    single = maurey_sparsification(torch.ones(1, 3), torch.tensor([2.5]), 3)
    assert single.weights.tolist() == [2.5]
    assert single.error == pytest.approx(0, abs=1e-12)
    assert sparsify_linear(torch.zeros(3, 2), torch.ones(2, 2), 4).error == 0


def test_bad_inputs_are_refused() -> None:
    with pytest.raises(SettingError, match="non-negative weight for each atom"):
        maurey_sparsification(torch.ones(2, 3), torch.tensor([1.0, -1.0]), 2)
    with pytest.raises(SettingError, match="non-negative weight for each atom"):
        maurey_sparsification(torch.ones(2, 3), torch.ones(3), 2)
    with pytest.raises(SettingError, match="terms must be a whole number"):
        maurey_sparsification(torch.ones(2, 3), torch.ones(2), 0)
    with pytest.raises(NumericalError, match="finite numbers"):
        sparsify_linear(torch.full((2, 2), math.inf), torch.ones(1, 2), 2)
    with pytest.raises(SettingError, match=r"inputs \(n, d\) and a weight \(m, d\)"):
        sparsify_linear(torch.ones(2, 3), torch.ones(3, 2), 2)
