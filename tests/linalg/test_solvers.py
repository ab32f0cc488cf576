from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from torchstone.errors import NumericalError, SettingError
from torchstone.linalg import DampedMap, DenseMap, FunctionMap, InverseMap, Outcome, solve_cg, solve_minres

SOLVERS = {"cg": solve_cg, "minres": solve_minres}


def counted(matrix: Tensor) -> tuple[FunctionMap, list[int]]:
    """The map of a matrix, and the widths of its products."""
    widths = []

    def product(X: Tensor) -> Tensor:
        widths.append(X.shape[1])
        return matrix @ X

    shape = (matrix.shape[0], matrix.shape[1])
    return FunctionMap(product, shape, matrix.dtype, block=True, symmetric=True), widths


@given(st.integers(1, 30), st.integers(1, 4), st.booleans(), st.sampled_from(["cg", "minres"]), st.data())
@settings(max_examples=120, deadline=None)
def test_any_system_against_a_dense_solution(seeded, with_spectrum, n, count, guess, name, data):
    seed = data.draw(st.integers(0, 1000))
    spectrum = 0.1 + torch.rand(n, generator=seeded(seed)).double()
    if name == "minres":
        spectrum *= torch.randint(0, 2, (n,), generator=seeded(seed)).double() * 2 - 1
    matrix = with_spectrum(spectrum, seed)
    b = torch.randn(n, count, generator=seeded(seed), dtype=torch.float64)
    b[:, 0] *= data.draw(st.sampled_from([0.0, 1e-100, 1.0, 1e100]))
    x0 = torch.randn(n, count, generator=seeded(seed + 1), dtype=torch.float64) if guess else None
    A, widths = counted(matrix)
    found = SOLVERS[name](A, b, tolerance=1e-10, x0=x0)
    assert found.converged
    exact = torch.linalg.solve(matrix, b)
    sizes = exact.norm(dim=0).clamp(min=1e-300)
    assert float(((found.solution - exact).norm(dim=0) / sizes).max()) < 1e-8
    residuals = (b - matrix @ found.solution).norm(dim=0) / b.norm(dim=0).clamp(min=1e-300)
    torch.testing.assert_close(found.residuals, residuals, rtol=1e-3, atol=1e-13)
    assert found.products == sum(widths)
    assert found.history.shape[1] == count
    assert bool((found.history[-1] <= 1e-10).all())


def test_conjugate_gradients_end_after_as_many_steps_as_there_are_distinct_eigenvalues(seeded, with_spectrum):
    matrix = with_spectrum(torch.tensor([1.0, 2.0, 5.0, 9.0]).repeat(25))
    b = torch.randn(100, generator=seeded(0), dtype=torch.float64)
    for solver in (solve_cg, solve_minres):
        found = solver(matrix, b, tolerance=1e-12)
        assert found.converged
        assert found.products == 4 + 1, "four steps and the true residual"
        assert found.solution.shape == (100,)


def test_the_error_shrinks_as_the_condition_number_says(seeded, with_spectrum):
    kappa = 100.0
    matrix = with_spectrum(torch.linspace(1, kappa, 400))
    b = torch.randn(400, generator=seeded(0), dtype=torch.float64)
    exact, rate = torch.linalg.solve(matrix, b), (math.sqrt(kappa) - 1) / (math.sqrt(kappa) + 1)
    start = math.sqrt(float(exact @ matrix @ exact))
    for steps in (5, 20, 40):
        error = solve_cg(matrix, b, tolerance=1e-15, max_products=steps + 1).solution - exact
        assert math.sqrt(float(error @ matrix @ error)) <= 2 * rate**steps * start


def test_minres_residuals_never_grow_and_are_the_smallest_of_the_krylov_space(seeded, with_spectrum):
    matrix = with_spectrum(torch.cat([torch.linspace(-3, -1, 20), torch.linspace(1, 5, 40)]))
    b = torch.randn(60, generator=seeded(0), dtype=torch.float64)
    found = solve_minres(matrix, b, tolerance=1e-10)
    assert bool((found.history.diff(dim=0) <= 1e-14).all())
    powers = [b / b.norm()]
    for _ in range(11):
        powers.append(matrix @ powers[-1])
        powers[-1] /= powers[-1].norm()
    for steps in (1, 4, 11):
        space = matrix @ torch.linalg.qr(torch.stack(powers[:steps], dim=1)).Q
        best = b - space @ torch.linalg.lstsq(space, b[:, None]).solution[:, 0]
        assert float(found.history[steps]) == pytest.approx(float(best.norm() / b.norm()), rel=1e-6)


def test_indefiniteness_is_detected_and_said(seeded, with_spectrum):
    matrix = with_spectrum(torch.cat([torch.tensor([-1.0]), torch.linspace(1, 5, 49)]))
    B = torch.randn(50, 2, generator=seeded(0), dtype=torch.float64)
    B[:, 1] = torch.linalg.eigh(matrix).eigenvectors[
        :, 5
    ]  # its Krylov space does not meet the negative direction
    found = solve_cg(matrix, B)
    assert found.outcomes == (Outcome.INDEFINITE, Outcome.CONVERGED)
    assert not found.converged
    residual = (B - matrix @ found.solution).norm(dim=0) / B.norm(dim=0)
    torch.testing.assert_close(found.residuals, residual)
    assert solve_minres(matrix, B, tolerance=1e-9).converged
    assert "p'Ap <= 0" in Outcome.INDEFINITE.value
    assert solve_cg(torch.zeros(3, 3), torch.ones(3)).outcomes == (Outcome.INDEFINITE,)


def test_singular_consistent_systems_get_the_solution_of_least_norm(seeded, with_spectrum):
    for negative in (False, True):
        spectrum = torch.cat([torch.zeros(10), torch.linspace(1, 5, 40)])
        spectrum[-5:] *= -1 if negative else 1
        matrix = with_spectrum(spectrum)
        b = matrix @ torch.randn(50, generator=seeded(0), dtype=torch.float64)
        least = torch.linalg.pinv(matrix, hermitian=True) @ b
        for solver in [solve_minres] if negative else [solve_minres, solve_cg]:
            found = solver(matrix, b, tolerance=1e-10)
            assert found.converged
            torch.testing.assert_close(found.solution, least, rtol=0, atol=1e-8)


def test_singular_inconsistent_systems_end_as_least_squares(seeded, with_spectrum):
    matrix = with_spectrum(torch.cat([torch.zeros(10), torch.linspace(-5, -1, 10), torch.linspace(1, 5, 40)]))
    b = torch.randn(60, generator=seeded(0), dtype=torch.float64)
    smallest = b - matrix @ torch.linalg.pinv(matrix, hermitian=True) @ b
    found = solve_minres(matrix, b, tolerance=1e-8)
    assert found.outcomes == (Outcome.LEAST_SQUARES,)
    assert float(found.residuals) == pytest.approx(float(smallest.norm() / b.norm()), rel=1e-9)
    left = matrix @ (b - matrix @ found.solution)
    assert float(left.norm()) < 1e-6
    assert solve_minres(torch.zeros(3, 3), torch.ones(3)).outcomes == (Outcome.LEAST_SQUARES,)


def test_a_good_preconditioner_saves_products_and_a_bad_one_is_refused(seeded):
    diagonal = torch.logspace(0, 5, 300, dtype=torch.float64)
    noise = torch.randn(300, 300, generator=seeded(0), dtype=torch.float64) * 0.01
    matrix = torch.diag(diagonal) + noise @ noise.T
    b = torch.randn(300, generator=seeded(1), dtype=torch.float64)
    plain = solve_cg(matrix, b, tolerance=1e-8)
    quick = solve_cg(matrix, b, tolerance=1e-8, preconditioner=torch.diag(1 / matrix.diagonal()))
    assert plain.converged
    assert quick.converged
    assert quick.products * 20 < plain.products
    torch.testing.assert_close(quick.solution, torch.linalg.solve(matrix, b), rtol=1e-5, atol=1e-8)
    with pytest.raises(NumericalError, match=r"positive definite; got DenseMap.* with r'Mr <= 0"):
        solve_cg(matrix, b, preconditioner=-torch.eye(300).double())
    with pytest.raises(SettingError, match="A preconditioner has the map's shape"):
        solve_cg(matrix, b, preconditioner=torch.eye(299).double())


def test_budgets_and_rounding_are_said(seeded, with_spectrum):
    matrix = with_spectrum(torch.logspace(-4, 0, 200))
    b = torch.randn(200, generator=seeded(0), dtype=torch.float64)
    for solver in (solve_cg, solve_minres):
        short = solver(matrix, b, max_products=10, tolerance=1e-9)
        assert short.outcomes == (Outcome.BUDGET,)
        assert short.products <= 10
        assert float(short.residuals) == pytest.approx(float((b - matrix @ short.solution).norm() / b.norm()))
        rough = solver(matrix.float(), b.float(), tolerance=1e-9)
        assert rough.outcomes == (Outcome.STAGNATED,)
        assert rough.solution.dtype == torch.float32
        assert float(rough.residuals) < 1e-2


def test_the_true_residual_is_reached_where_the_recurrence_runs_away(seeded, with_spectrum):
    matrix = with_spectrum(torch.logspace(-7, 0, 60))
    b = matrix @ torch.randn(60, generator=seeded(0), dtype=torch.float64)
    found = solve_cg(matrix, b, tolerance=1e-11, max_products=20_000)
    assert found.converged
    assert float((b - matrix @ found.solution).norm() / b.norm()) <= 1.01e-11


def test_inverse_maps_against_dense_inverses(seeded, with_spectrum):
    matrix = with_spectrum(torch.cat([torch.zeros(3), torch.linspace(0.5, 4, 17)]))
    inverse = InverseMap(matrix, 0.3, tolerance=1e-12)
    exact = torch.linalg.inv(matrix + 0.3 * torch.eye(20).double())
    torch.testing.assert_close(inverse.to_dense(), exact, rtol=0, atol=1e-10)
    assert inverse.symmetric
    assert 0 < inverse.reached <= 1e-12
    assert inverse.products > 40
    b = torch.randn(20, generator=seeded(0), dtype=torch.float64)
    torch.testing.assert_close(inverse @ b, exact @ b)
    assert inverse.T is inverse


def test_an_inverse_that_cannot_be_had_raises(seeded, with_spectrum):
    matrix = with_spectrum(torch.cat([-torch.ones(1), torch.linspace(1, 4, 29)]))
    b = torch.randn(30, generator=seeded(0), dtype=torch.float64)
    with pytest.raises(NumericalError, match=r"reach a relative residual of 1e-05; got .*p'Ap <= 0"):
        InverseMap(matrix).matvec(b)
    torch.testing.assert_close(
        InverseMap(matrix, indefinite=True, tolerance=1e-10).matvec(b), torch.linalg.solve(matrix, b)
    )
    with pytest.raises(NumericalError, match="budget of products was spent"):
        InverseMap(matrix, 2.0, max_products=3).matvec(b)
    with pytest.raises(NumericalError, match="has no solution"):
        InverseMap(torch.zeros(3, 3), indefinite=True).matvec(torch.ones(3))
    with pytest.raises(SettingError, match="A preconditioner goes with conjugate gradients"):
        InverseMap(matrix, preconditioner=matrix, indefinite=True)


def test_damped_maps(seeded):
    matrix = torch.randn(4, 4, generator=seeded(0))
    damped = DampedMap(matrix, -0.5)
    assert not damped.symmetric
    torch.testing.assert_close(damped.to_dense(), matrix - 0.5 * torch.eye(4))
    torch.testing.assert_close(damped.T.to_dense(), (matrix - 0.5 * torch.eye(4)).T)
    torch.testing.assert_close(damped @ torch.ones(4), matrix.sum(dim=1) - 0.5)
    with pytest.raises(SettingError, match="damping is a finite number; got nan"):
        DampedMap(matrix, math.nan)
    with pytest.raises(SettingError, match="DampedMap needs a square map"):
        DampedMap(torch.ones(2, 3), 1.0)


@pytest.mark.parametrize("solver", SOLVERS.values())
def test_bad_systems_are_refused(solver):
    eye = torch.eye(3)
    with pytest.raises(SettingError, match="not declared symmetric"):
        solver(torch.ones(3, 3).triu(), torch.ones(3))
    with pytest.raises(SettingError, match=r"b must have shape \(3,\) or \(3, k\)"):
        solver(eye, torch.ones(4))
    with pytest.raises(SettingError, match="b must have shape"):
        solver(eye, torch.ones(3).double())
    with pytest.raises(NumericalError, match="b must be finite"):
        solver(eye, torch.tensor([1.0, math.nan, 0.0]))
    with pytest.raises(NumericalError, match="x0 must be finite"):
        solver(eye, torch.ones(3), x0=torch.full((3,), math.inf))
    with pytest.raises(SettingError, match="x0 has the shape of b"):
        solver(eye, torch.ones(3), x0=torch.ones(3, 2))
    with pytest.raises(SettingError, match="tolerance must lie between 0 and 1"):
        solver(eye, torch.ones(3), tolerance=0.0)
    with pytest.raises(SettingError, match="max_products must be at least 1"):
        solver(eye, torch.ones(3), max_products=0)
    with pytest.raises(NumericalError, match="Products of FunctionMap"):
        solver(FunctionMap(lambda x: x / 0, (3, 3), symmetric=True), torch.ones(3))


def test_graphs_are_detached():
    matrix = torch.eye(3, requires_grad=True)
    for solver in SOLVERS.values():
        assert not solver(DenseMap(2 * matrix), torch.ones(3, requires_grad=True)).solution.requires_grad
