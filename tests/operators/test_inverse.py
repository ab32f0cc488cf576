"""Inverses of damped curvature against dense ones, and influence functions against optima computed again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone import Specimen
from torchstone.errors import NumericalError, SettingError
from torchstone.linalg import DenseMap, FunctionMap
from torchstone.objectives import Regression
from torchstone.operators import BlockDiagonal, GaussNewton, Hessian, inverse


def error(measured: Tensor, exact: Tensor) -> float:
    return float((measured.double() - exact).norm() / exact.norm())


def columns(n: int, k: int) -> Tensor:
    return torch.randn(n, k, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("name", ["tanh mlp", "batch norm cnn", "unused and frozen", "lstm"])
def test_inverse_is_the_dense_one(name: str, awkward: Any) -> None:
    G = GaussNewton(awkward(name).specimen)
    dense, eye = G.to_dense(), torch.eye(G.shape[0], dtype=torch.float64)
    top = float(torch.linalg.eigvalsh(dense)[-1])
    found = inverse(G)
    assert 0.0099 * top < found.damping < 0.01001 * top
    exact = torch.linalg.inv(dense + found.damping * eye)
    assert error(found.matmat(columns(len(eye), 3)), exact @ columns(len(eye), 3)) < 1e-6
    assert found.solver.reached <= 1e-8
    assert found.symmetric
    blocks = BlockDiagonal(G)
    exact = torch.linalg.inv(blocks.to_dense() + 0.1 * eye)
    assert error(inverse(blocks, 0.1).matmat(columns(len(eye), 2)), exact @ columns(len(eye), 2)) < 1e-6


def test_single_precision_reaches_its_tolerance_at_the_default_damping(make_case: Any, awkward: Any) -> None:
    model = awkward("batch norm cnn").model
    exact = GaussNewton(awkward("batch norm cnn").specimen).to_dense()
    G = GaussNewton(make_case(model, (1, 7, 7), dtype=torch.float32).specimen)
    found = inverse(G)
    b = columns(G.shape[0], 1)[:, 0]
    truth = torch.linalg.solve(exact + found.damping * torch.eye(len(b), dtype=torch.float64), b)
    assert error(found.matvec(b.float()), truth) < 1e-2
    assert found.solver.products < 100


def test_an_indefinite_hessian_says_which_eigenvalue_was_met(awkward: Any) -> None:
    H = Hessian(awkward("tanh mlp").specimen)
    dense = H.to_dense()
    lowest = float(torch.linalg.eigvalsh(dense)[0])
    assert lowest < -1e-3
    b = columns(H.shape[0], 1)[:, 0]
    with pytest.raises(NumericalError, match="must be positive definite") as caught:
        inverse(H, damping=-0.5 * lowest).matvec(b)
    met = float(caught.value.got.split("eigenvalue of ")[1].split()[0])
    assert met == pytest.approx(lowest, rel=0.02)
    assert f"damping above {-met:.3g}" in caught.value.fix
    enough = inverse(H, damping=-1.1 * lowest)
    truth = torch.linalg.solve(dense + enough.damping * torch.eye(len(b), dtype=torch.float64), b)
    assert error(enough.matvec(b), truth) < 1e-5


def test_influence_is_the_derivative_of_the_optimum() -> None:
    """Ridge-free least squares: the optimum with an example's weight changed, in closed form."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(12, 3, generator=generator, dtype=torch.float64)
    y = torch.randn(12, 1, generator=generator, dtype=torch.float64)

    def optimum(extra: float) -> Tensor:
        weights = torch.full((12,), 1 / 12, dtype=torch.float64)
        weights[4] += extra
        return torch.linalg.solve(x.T @ (weights[:, None] * x), x.T @ (weights[:, None] * y))[:, 0]

    model = nn.Linear(3, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(optimum(0.0)[None])
    train = Specimen(model, Regression(), (x[4:5], y[4:5])).gradient()["weight"].flatten()
    specimen = Specimen(model, Regression(), (x, y))
    step = 1e-5
    derivative = (optimum(step) - optimum(-step)) / (2 * step)
    assert error(-inverse(Hessian(specimen), damping=0.0).matvec(train), derivative) < 1e-7


def test_a_preconditioner_saves_products() -> None:
    values = torch.logspace(0, 5, 60, dtype=torch.float64)
    A = DenseMap(torch.diag(values), symmetric=True)
    b = torch.ones(60, dtype=torch.float64)
    plain, helped = (
        inverse(A, 0.0),
        inverse(A, 0.0, preconditioner=DenseMap(torch.diag(1.1 / values), symmetric=True)),
    )
    assert error(helped.matvec(b), 1 / values) < 1e-6
    assert error(plain.matvec(b), 1 / values) < 1e-2
    assert helped.solver.products < 5 < plain.solver.products


def test_mistakes_are_explained(awkward: Any) -> None:
    G = GaussNewton(awkward("tanh mlp").specimen)
    with pytest.raises(SettingError, match="damping must be at least 0; got -1"):
        inverse(G, damping=-1.0)
    with pytest.raises(SettingError, match="damping must be at least 0; got nan"):
        inverse(G, damping=float("nan"))
    with pytest.raises(SettingError, match="inverse needs a symmetric map"):
        inverse(FunctionMap(lambda x: x, (3, 3)))
    zero = DenseMap(torch.zeros(5, 5), symmetric=True)
    with pytest.raises(
        NumericalError, match="share of the largest eigenvalue, which must be positive; got 0"
    ):
        inverse(zero)
    with pytest.raises(NumericalError, match="reach a relative residual of 1e-10"):
        inverse(G, damping=1e-3, tolerance=1e-10, max_products=4).matvec(torch.ones(39, dtype=torch.float64))
