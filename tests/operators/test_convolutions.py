"""Convolutions inside `EfficientDerivatives`: PyTorch's values and derivatives to any order, and never in a way."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

from torchstone.objectives import Regression
from torchstone.operators import GaussNewton, Hessian, ParameterJacobian
from torchstone.operators.efficient_derivatives import EfficientDerivatives
from torchstone.specimen import Specimen
from torchstone.testing.dense import dense_gauss_newton, dense_hessian


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def total(parts: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([part.sin().flatten() for part in parts]).sum()


CASES: list[tuple[Any, tuple[int, ...], tuple[int, ...], int | None, dict[str, Any]]] = [
    (torch.conv1d, (2, 4, 7), (6, 2, 3), 6, {"stride": 2, "padding": 1, "groups": 2}),
    (torch.conv2d, (2, 2, 5, 6), (3, 2, 3, 2), 3, {"padding": (1, 0), "dilation": (1, 2)}),
    (torch.conv2d, (1, 3, 4, 4), (3, 1, 3, 3), None, {"groups": 3, "padding": [1]}),
    (torch.conv3d, (2, 1, 3, 3, 3), (2, 1, 2, 2, 2), 2, {}),
    (torch.conv_transpose1d, (2, 2, 4), (2, 3, 3), 3, {"stride": 2, "output_padding": 1}),
    (torch.conv_transpose2d, (1, 4, 3, 3), (4, 1, 2, 3), 2, {"groups": 2, "padding": 1, "stride": (2, 1)}),
    (torch.conv_transpose3d, (1, 1, 2, 2, 2), (1, 2, 2, 2, 2), 2, {"dilation": 2}),
]


@pytest.mark.parametrize(("function", "x", "weight", "bias", "settings"), CASES)
def test_values_and_derivatives_to_the_third_order(function, x, weight, bias, settings) -> None:
    tensors = [draw(*x), draw(*weight, seed=1), *([draw(bias, seed=2)] if bias else [])]
    leaves = [t.requires_grad_() for t in tensors]
    with EfficientDerivatives(linear=False):
        value = function(*leaves, **settings)
        assert value.grad_fn is not None
        assert "_Convolution" in value.grad_fn.name()

    def efficient(*leaves: Tensor) -> Tensor:
        with EfficientDerivatives(linear=False):
            return function(*leaves, **settings)

    assert gradcheck(efficient, leaves)
    assert gradgradcheck(efficient, leaves)
    plain = function(*leaves, **settings)
    assert torch.equal(value, plain)
    u, seen = draw(*value.shape, seed=3).requires_grad_(), []
    for output in (value, plain):
        first = torch.autograd.grad(output, leaves, u, create_graph=True)
        second = torch.autograd.grad(total(first), [*leaves, u], create_graph=True, materialize_grads=True)
        third: tuple[Tensor, ...] = ()
        if "output_padding" not in settings:  # there PyTorch's own formula fails at the third order
            third = torch.autograd.grad(total(second), [*leaves, u], materialize_grads=True)
        seen.append((first, second, third))
    for a, b in zip(seen[0][0], seen[1][0], strict=True):
        assert torch.equal(a, b)
    for order in (1, 2):
        for a, b in zip(seen[0][order], seen[1][order], strict=True):
            assert torch.allclose(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("function", "x", "weight", "bias", "settings"), CASES)
def test_along_the_gradient_alone(function, x, weight, bias, settings) -> None:
    leaves = [t.requires_grad_() for t in (draw(*x), draw(*weight, seed=1))]
    if bias:
        leaves.append(draw(bias, seed=2).requires_grad_())
    pushed = []
    for mode in (EfficientDerivatives(linear=True), EfficientDerivatives(linear=False)):
        with mode:
            value = function(*leaves, **settings)
        u = torch.zeros_like(value, requires_grad=True)
        pulled = torch.autograd.grad(value, leaves, u, create_graph=True)
        for chosen in range(len(leaves)):  # a direction of one alone leaves the other cotangents undefined
            v = draw(*leaves[chosen].shape, seed=4)
            pushed.append(torch.autograd.grad(pulled[chosen], u, v, retain_graph=True)[0])
    half = len(pushed) // 2
    for k in range(half):
        assert torch.allclose(pushed[k], pushed[half + k], rtol=1e-12)
        moved = [t.detach() for t in leaves]
        moved[k] = draw(*moved[k].shape, seed=4)
        if k == 2:
            moved[0] = torch.zeros_like(moved[0])
        elif bias:
            moved[2] = torch.zeros_like(moved[2])
        assert torch.allclose(
            pushed[k], function(*moved, **settings), rtol=1e-10, atol=1e-12
        )  # it is linear in each


def test_many_columns_at_once() -> None:
    x, weight, bias = (
        draw(2, 2, 5, 5),
        draw(3, 2, 3, 3, seed=1).requires_grad_(),
        draw(3, seed=2).requires_grad_(),
    )
    with EfficientDerivatives(linear=False):
        value = torch.conv2d(torch.conv2d(x, weight, bias).tanh()[:, :2], weight, bias)
    gradient = torch.autograd.grad(value.square().sum(), [weight, bias], create_graph=True)
    V = [draw(4, *t.shape, seed=5) for t in (weight, bias)]
    options = {"retain_graph": True}
    together = torch.autograd.grad(gradient, [weight, bias], V, is_grads_batched=True, **options)
    for k in range(4):
        alone = torch.autograd.grad(gradient, [weight, bias], [v[k] for v in V], **options)
        assert all(torch.allclose(a[k], b, rtol=1e-12) for a, b in zip(together, alone, strict=True))


def test_what_it_leaves_to_pytorch() -> None:
    x, weight = draw(2, 2, 5, 5), draw(3, 2, 3, 3, seed=1).requires_grad_()

    def name(value: Tensor) -> str:
        return value.grad_fn.name() if value.grad_fn is not None else ""

    with EfficientDerivatives(linear=False):
        assert "_Convolution" in name(nn.functional.conv2d(x, weight))
        assert "_Convolution" not in name(torch.conv2d(x[0], weight))  # not batched
        assert "_Convolution" not in name(torch.conv2d(x, weight, padding="same"))
        assert "_Convolution" not in name(torch.conv2d(x + 1j, weight + 1j))
        assert torch.conv2d(x, weight.detach()).grad_fn is None
        with torch.no_grad():
            assert torch.conv2d(x, weight).grad_fn is None
        with torch.autocast("cpu", torch.bfloat16):
            assert "_Convolution" not in name(torch.conv2d(x.float(), weight.float()))
        jacobian = torch.func.jacrev(lambda w: torch.conv2d(x, w).sum())(weight.detach())
        pushed = torch.func.jvp(lambda w: torch.conv2d(x, w).sum(), (weight.detach(),), (weight.detach(),))[1]
        with pytest.raises(RuntimeError, match="expected input"):
            torch.conv2d(x[:, :1], weight)
    assert torch.allclose((jacobian * weight).sum(), pushed)


class Awkward(nn.Module):
    """Convolutions of all kinds, one of them under two names, one without bias, a transposed one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1, padding_mode="circular")
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False)
        self.again = self.depthwise
        self.up = nn.ConvTranspose2d(4, 2, 2, stride=2)
        self.norm, self.last = nn.BatchNorm2d(2), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.again(torch.tanh(self.depthwise(torch.tanh(self.first(x)))))
        return self.last(self.norm(self.up(hidden).sigmoid()).mean((2, 3)))


@pytest.mark.parametrize("kept", [True, False])
def test_products_of_a_network_are_those_of_its_dense_matrices(kept: bool) -> None:
    model = Awkward().double()
    with torch.no_grad():
        for k, p in enumerate(model.parameters()):
            p.copy_(draw(*p.shape, seed=k) / 2)
    x, y = draw(5, 1, 4, 4), draw(5, 2, seed=9)
    specimen = Specimen(model, Regression(), (x, y), batch_size=2).prepared()
    before = [p.detach().clone() for p in model.parameters()]
    memory = 2**30 if kept else 0
    for operator, dense in ((Hessian, dense_hessian), (GaussNewton, dense_gauss_newton)):
        matrix = operator(specimen, memory_bytes=memory)
        expected = dense(specimen)
        assert torch.allclose(matrix.to_dense(), expected, rtol=1e-9, atol=1e-11)
        assert matrix.certain
    rows = ParameterJacobian(specimen, memory_bytes=memory)
    v, u = draw(rows.shape[1], seed=3), draw(rows.shape[0], seed=4)
    assert torch.allclose(u @ rows.matvec(v), rows.T.matvec(u) @ v, rtol=1e-10)
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    assert model.again is model.depthwise
