"""Spectral radii between certain ends, Jacobians and Floquet multipliers against closed forms."""

import math

import pytest
import torch

from torchstone.errors import NumericalError, SettingError
from torchstone.memory import arnoldi_radius, floquet_multipliers, jacobians, spectral_radius


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def similar(eigenvalues: torch.Tensor, seed: int) -> torch.Tensor:
    """A matrix that is not normal, with known real eigenvalues."""
    change = drawn(len(eigenvalues), len(eigenvalues), seed=seed)
    return change @ eigenvalues.diag() @ torch.linalg.inv(change)


@pytest.mark.parametrize("seed", range(6))
def test_the_ends_hold_and_close_where_the_radius_is_known(seed: int):
    known = torch.linspace(-0.97, 0.6, 12, dtype=torch.float64)
    found = spectral_radius(similar(known, seed))
    assert float(found.low) <= 0.97 <= float(found.high)
    assert float(found.high / found.low) < 1.1  # the bound on rounding pays for the eigenvectors' condition
    assert float(found.values) == pytest.approx(0.97, abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_the_ends_are_tight_where_the_matrix_is_normal_or_a_jacobian_of_ordinary_size(seed: int):
    root = drawn(30, 30, seed=seed)
    symmetric = (root + root.T) / (root + root.T).norm()
    found = spectral_radius(torch.stack([symmetric, root]))
    assert bool((found.low <= found.values).all())
    assert bool((found.values <= found.high).all())
    assert float((found.high / found.low).max()) < 1.002


def test_a_rotation_and_a_matrix_far_from_normal():
    turn = torch.tensor([[0.0, -0.9], [0.9, 0.0]], dtype=torch.float64)  # eigenvalues +-0.9 i: traces vanish
    far = torch.tensor([[0.5, 1e6], [0.0, 0.4]], dtype=torch.float64)
    found = spectral_radius(torch.stack([turn, far]))
    assert found.values.tolist() == pytest.approx([0.9, 0.5])
    assert bool((found.low <= found.values + 1e-12).all())
    assert bool((found.values - 1e-12 <= found.high).all())
    assert float(found.high[0]) < 0.91
    assert float(found.low[0]) > 0.89


def test_rounding_is_inside_the_ends_for_a_jordan_block():
    """LAPACK is wrong by about eps^(1/n) here; the ends must hold the true radius 0.5 all the same."""
    block = 0.5 * torch.eye(12, dtype=torch.float64) + torch.diag(torch.ones(11, dtype=torch.float64), 1)
    mixed = drawn(12, 12, seed=3)
    block = mixed @ block @ torch.linalg.inv(mixed)
    found = spectral_radius(block)
    assert float(found.low) <= 0.5 + 1e-9
    assert float(found.high) >= 0.5 - 1e-9


def test_nilpotent_and_zero_matrices():
    found = spectral_radius(torch.stack([torch.tensor([[0.0, 1.0], [0.0, 0.0]]), torch.zeros(2, 2)]))
    assert found.values.tolist() == [0, 0]
    assert found.low.tolist() == [0, 0]
    assert float(found.high[0]) < 1
    assert float(found.high[1]) == 0


@pytest.mark.parametrize("scale", [1e-200, 1e150])
def test_extreme_scales_do_not_overflow(scale: float):
    found = spectral_radius(scale * torch.tensor([[2.0, 0.0], [1.0, 1.0]], dtype=torch.float64))
    assert float(found.values) == pytest.approx(2 * scale)
    assert float(found.low) <= 2 * scale <= float(found.high)
    assert float(found.high) < 2.01 * scale


def test_no_squaring_gives_the_frobenius_norm_and_the_trace():
    A = drawn(4, 4)
    found = spectral_radius(A, squarings=0)
    assert float(found.high) == pytest.approx(float(A.norm()))
    assert float(found.low) == pytest.approx(float(A.trace().abs()) / 4)


def test_jacobians_of_images_are_those_of_flat_states():
    W = drawn(8, 8)
    function = lambda x: torch.tanh(x.flatten(1) @ W.T).reshape(x.shape)
    points = drawn(3, 2, 2, 2, seed=1)
    expected = (1 - torch.tanh(points.flatten(1) @ W.T).square())[:, :, None] * W
    assert torch.allclose(jacobians(function, points), expected, atol=1e-12)


def test_floquet_multipliers_of_the_logistic_map():
    """The 2-cycle of r x (1 - x) has the multiplier 4 + 2 r - r^2 (Strogatz 2015, example 10.3.3)."""
    r = 3.2
    root = math.sqrt((r - 3) * (r + 1))
    cycle = torch.tensor([[(r + 1 + root) / (2 * r)], [(r + 1 - root) / (2 * r)]], dtype=torch.float64)
    logistic = lambda x: r * x * (1 - x)
    assert torch.allclose(logistic(cycle), cycle.flip(0))
    for points in (cycle, cycle.flip(0)):
        [multiplier] = floquet_multipliers(logistic, points)
        assert multiplier.real.item() == pytest.approx(4 + 2 * r - r**2)


def test_the_chain_rule_takes_the_last_point_first():
    """Two linear pieces that do not commute."""
    A, B = drawn(2, 2), drawn(2, 2, seed=1)
    function = lambda x: torch.where(x[:, :1] > 0, x @ A.T, x @ B.T)
    cycle = torch.tensor([[1.0, 0.3], [-1.0, 0.2]], dtype=torch.float64)
    expected = torch.linalg.eigvals(B @ A)
    found = floquet_multipliers(function, cycle)
    assert sorted(found.abs().tolist()) == pytest.approx(sorted(expected.abs().tolist()))
    assert found[0].abs() >= found[1].abs()


def test_what_it_refuses():
    with pytest.raises(SettingError, match="square matrices"):
        spectral_radius(torch.zeros(2, 3))
    with pytest.raises(SettingError, match="squarings"):
        spectral_radius(torch.zeros(2, 2), squarings=-1)
    with pytest.raises(NumericalError, match="finite entries"):
        spectral_radius(torch.tensor([[float("inf")]]))
    with pytest.raises(SettingError, match="at least one point"):
        floquet_multipliers(torch.cos, torch.zeros(0, 1))


def test_arnoldi_finds_the_radius_of_each_matrix_of_a_batch():
    A = torch.stack([drawn(60, 60, seed=seed) / 60**0.5 for seed in range(3)])
    A[0, :, 0] *= 5  # one eigenvalue stands apart
    found = arnoldi_radius(lambda v: torch.einsum("bij,bj->bi", A, v), drawn(3, 60, seed=7), steps=60)
    exact = torch.linalg.eigvals(A).abs().amax(1)
    assert found.values.tolist() == pytest.approx(exact.tolist(), rel=1e-3)


def test_its_residual_is_that_of_the_pair():
    """Symmetric: an eigenvalue lies within the residual of the Ritz value."""
    root = drawn(40, 40)
    A = (root + root.T)[None]
    found = arnoldi_radius(lambda v: torch.einsum("bij,bj->bi", A, v), drawn(1, 40, seed=1), steps=12)
    exact = torch.linalg.eigvalsh(A[0]).abs()
    assert float((exact - found.values[0]).abs().min()) <= float(found.residuals[0]) + 1e-12
    assert float(found.residuals[0]) > 0


def test_arnoldi_stops_at_invariant_spaces_and_takes_zero_matrices():
    A = torch.stack([torch.diag(torch.tensor([3.0, 0.0, 0.0])), torch.zeros(3, 3)]).double()
    found = arnoldi_radius(lambda v: torch.einsum("bij,bj->bi", A, v), drawn(2, 3))
    assert found.values.tolist() == pytest.approx([3, 0], abs=1e-9)
    with pytest.raises(NumericalError, match="Products must be finite"):
        arnoldi_radius(lambda v: v * float("nan"), drawn(1, 3))
