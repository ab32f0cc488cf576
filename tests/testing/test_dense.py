"""The dense references against closed forms: they are what everything else is tested against."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from torchstone.objectives import Classification, Regression
from torchstone.specimen import Specimen
from torchstone.testing.dense import (
    dense_gauss_newton,
    dense_gradient,
    dense_hessian,
    dense_jacobian,
    per_example_gradients,
)


def linear(objective: Regression | Classification, outputs: int) -> tuple[Specimen, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(11, 3, generator=generator, dtype=torch.float64)
    targets = torch.randn(11, 1, generator=generator, dtype=torch.float64)
    y = (
        targets
        if isinstance(objective, Regression)
        else torch.randint(0, outputs, (11,), generator=generator)
    )
    model = nn.Linear(3, outputs, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.randn(outputs, 3, generator=generator))
    return Specimen(model, objective, (x, y), batch_size=4), x, y


def test_least_squares() -> None:
    """(1/N) sum (w x - y)^2: gradient 2/N X^T(Xw - y), Hessian and Gauss-Newton 2/N X^T X."""
    specimen, x, y = linear(Regression(), 1)
    weight = specimen.trainable["weight"].detach()
    residual = x @ weight.T - y
    assert torch.allclose(dense_gradient(specimen), 2 / 11 * (x.T @ residual)[:, 0], atol=1e-14)
    assert torch.allclose(per_example_gradients(specimen), 2 * residual * x, atol=1e-14)
    assert torch.allclose(dense_hessian(specimen), 2 / 11 * x.T @ x, atol=1e-14)
    assert torch.allclose(dense_gauss_newton(specimen), 2 / 11 * x.T @ x, atol=1e-14)
    assert torch.equal(dense_jacobian(specimen)[:, 0], x)


def test_softmax_regression() -> None:
    """Hessian (1/N) sum (diag(p) - p p^T) kron x x^T, which is the Gauss-Newton matrix of a linear network."""
    specimen, x, y = linear(Classification(), 3)
    p = (x @ specimen.trainable["weight"].detach().T).softmax(1)
    expected = sum(
        torch.kron(torch.diag(q) - torch.outer(q, q), torch.outer(a, a)) for q, a in zip(p, x, strict=True)
    )
    assert isinstance(expected, Tensor)
    assert torch.allclose(dense_hessian(specimen), expected / 11, atol=1e-14)
    assert torch.allclose(dense_gauss_newton(specimen), expected / 11, atol=1e-14)
    one_hot = nn.functional.one_hot(y, 3).double()
    assert torch.allclose(dense_gradient(specimen), ((p - one_hot).T @ x).flatten() / 11, atol=1e-14)


def test_a_curved_network_differs_by_the_residual_term() -> None:
    """f = w^2 x, loss (f - y)^2: Hessian 2 (2wx)^2 + 2 (f - y) 2x, Gauss-Newton only the first."""

    class Square(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.tensor(3.0, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return self.w**2 * x

    x, y = torch.tensor([[2.0]], dtype=torch.float64), torch.tensor([[1.0]], dtype=torch.float64)
    specimen = Specimen(Square(), Regression(), (x, y))
    assert float(dense_gauss_newton(specimen)) == pytest.approx(2 * 12**2)
    assert float(dense_hessian(specimen)) == pytest.approx(2 * 12**2 + 2 * 17 * 4)


def test_frozen_parameters_have_no_place() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    model[0].requires_grad_(False)
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    specimen = Specimen(model, Classification(), (x, torch.tensor([0, 1, 0, 1, 1])))
    assert dense_hessian(specimen).shape == (10, 10)
