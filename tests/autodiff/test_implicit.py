"""Implicit differentiation against closed forms, finite differences and unrolled solvers, once and twice."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from torchstone.autodiff import argmin_function, fixed_point_function, implicit_function
from torchstone.autodiff.implicit import Method
from torchstone.errors import NumericalError, SettingError

METHODS: tuple[Method, ...] = ("direct", "gmres")
F64 = torch.float64


def kepler(E: Tensor, M: Tensor, e: Tensor) -> Tensor:
    return E - e * torch.sin(E) - M


def eccentric_anomaly(M: Tensor, e: Tensor, iterations: int = 60) -> Tensor:
    E = M.clone()
    for _ in range(iterations):
        E = E - kepler(E, M, e) / (1 - e * torch.cos(E))
    return E


@pytest.mark.parametrize("method", METHODS)
def test_keplers_equation(method: Method) -> None:
    M = torch.linspace(0.1, 3, 7, dtype=F64, requires_grad=True)
    e = torch.full((7,), 0.6, dtype=F64, requires_grad=True)

    def solved(M: Tensor, e: Tensor) -> Tensor:
        with torch.no_grad():
            E = eccentric_anomaly(M, e)
        return implicit_function(kepler, E, M, e, method=method)

    E = solved(M, e)
    found = torch.autograd.grad(E.sum(), (M, e))
    # E is elementwise in M and e, so these are closed forms.
    denominator = 1 - e.detach() * torch.cos(E.detach())
    torch.testing.assert_close(found[0], 1 / denominator, rtol=1e-8, atol=0)
    torch.testing.assert_close(found[1], torch.sin(E.detach()) / denominator, rtol=1e-8, atol=0)
    unrolled = torch.autograd.grad(eccentric_anomaly(M, e).sum(), (M, e))
    torch.testing.assert_close(found, unrolled, rtol=1e-8, atol=1e-8)
    assert torch.autograd.gradcheck(solved, (M, e), atol=1e-6)
    assert torch.autograd.gradgradcheck(solved, (M, e), atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_the_square_root_to_the_third_derivative(method: Method) -> None:
    a = torch.tensor([2.0, 0.5], dtype=F64, requires_grad=True)
    root = implicit_function(lambda z, a: z * z - a, a.detach().sqrt(), a, method=method)
    (first,) = torch.autograd.grad(root.sum(), a, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), a, create_graph=True)
    (third,) = torch.autograd.grad(second.sum(), a)
    x = a.detach()
    torch.testing.assert_close(first.detach(), x**-0.5 / 2, rtol=1e-9, atol=0)
    torch.testing.assert_close(second.detach(), -(x**-1.5) / 4, rtol=1e-8, atol=0)
    torch.testing.assert_close(third, 3 * x**-2.5 / 8, rtol=1e-8, atol=0)


@pytest.mark.parametrize("method", METHODS)
def test_ridge_regression_as_an_argmin(method: Method) -> None:
    g = torch.Generator().manual_seed(0)
    X = torch.randn(20, 4, generator=g, dtype=F64, requires_grad=True)
    y = torch.randn(20, generator=g, dtype=F64, requires_grad=True)
    penalty = torch.tensor(0.3, dtype=F64, requires_grad=True)

    def objective(w: Tensor, X: Tensor, y: Tensor, penalty: Tensor) -> Tensor:
        return (X @ w - y).square().sum() / 2 + penalty * w.square().sum() / 2

    def closed(X: Tensor, y: Tensor, penalty: Tensor) -> Tensor:
        return torch.linalg.solve(X.T @ X + penalty * torch.eye(4, dtype=F64), X.T @ y)

    def implicit(X: Tensor, y: Tensor, penalty: Tensor) -> Tensor:
        return argmin_function(objective, closed(X, y, penalty).detach(), X, y, penalty, method=method)

    u = torch.randn(4, generator=g, dtype=F64)
    found = torch.autograd.grad(implicit(X, y, penalty) @ u, (X, y, penalty), create_graph=True)
    expected = torch.autograd.grad(closed(X, y, penalty) @ u, (X, y, penalty), create_graph=True)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)
    again = [
        torch.autograd.grad(torch.stack([part.sum() for part in parts]).sum(), (X, y, penalty))
        for parts in (found, expected)
    ]
    torch.testing.assert_close(again[0], again[1], rtol=1e-7, atol=1e-7)


def test_a_fixed_point_of_a_layer() -> None:
    g = torch.Generator().manual_seed(0)
    W = (torch.randn(6, 6, generator=g, dtype=F64) / 6).requires_grad_(True)
    x = torch.randn(3, 6, generator=g, dtype=F64, requires_grad=True)
    layer = lambda z, W, x: torch.tanh(z @ W.T + x)
    z = torch.zeros(3, 6, dtype=F64)
    unrolled = z
    for _ in range(200):
        unrolled = layer(unrolled, W, x)
    found = torch.autograd.grad(fixed_point_function(layer, unrolled, W, x).square().sum(), (W, x))
    expected = torch.autograd.grad(unrolled.square().sum(), (W, x))
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


def test_what_does_not_require_a_gradient_gets_none() -> None:
    a, b = torch.tensor([4.0], dtype=F64, requires_grad=True), torch.tensor([1.0], dtype=F64)
    root = implicit_function(lambda z, a, b: z * z - a * b, torch.tensor([2.0], dtype=F64), a, b)
    root.backward()
    assert a.grad is not None
    assert float(a.grad) == pytest.approx(0.25)
    assert b.grad is None


@pytest.mark.parametrize("method", METHODS)
def test_a_double_root_has_no_derivative(method: Method) -> None:
    a = torch.zeros(2, dtype=F64, requires_grad=True)
    root = implicit_function(lambda z, a: z * z - a, torch.zeros(2, dtype=F64), a, method=method)
    with pytest.raises(NumericalError, match="needs a regular dF/dz"):
        root.sum().backward()


def test_what_is_refused() -> None:
    a = torch.tensor([2.0], requires_grad=True)
    with pytest.raises(SettingError, match=r"must have the shape of z; got \(2,\) for \(1,\)"):
        implicit_function(lambda z, a: torch.cat([z, a]), torch.ones(1), a)
    with pytest.raises(SettingError, match=r"z must solve F\(z, theta\) = 0; got \|F\| = 1"):
        implicit_function(lambda z, a: z * z - a, torch.ones(1), a)
    with pytest.raises(SettingError, match="z must solve"):
        implicit_function(lambda z, a: z * z - a, torch.tensor([math.nan]), a)
    with pytest.raises(SettingError, match='"direct" or "gmres"'):
        implicit_function(lambda z, a: z * z - a, a.detach().sqrt(), a, method="magic")  # pyright: ignore[reportArgumentType]
