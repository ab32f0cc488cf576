"""Batch normalisation inside `EfficientDerivatives`: PyTorch's values and derivatives to any order, in fewer passes."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from torchstone.objectives import Regression
from torchstone.operators import GaussNewton, Hessian, ParameterJacobian
from torchstone.operators.efficient_derivatives import EfficientDerivatives
from torchstone.specimen import Specimen
from torchstone.testing.dense import dense_gauss_newton, dense_hessian


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def statistics(channels: int) -> tuple[Tensor, Tensor]:
    return draw(channels, seed=7), draw(channels, seed=8).exp()


def name(value: Tensor) -> str:
    return value.grad_fn.name() if value.grad_fn is not None else ""


def affine(channels: int, weight: bool, bias: bool) -> dict[str, Tensor]:
    chosen = {"weight": draw(channels, seed=1)} if weight else {}
    return chosen | ({"bias": draw(channels, seed=2)} if bias else {})


CASES = [
    ((3, 2), True, True),
    ((2, 3, 4), True, True),
    ((2, 3, 2, 2), True, False),
    ((2, 3, 2, 2), False, True),
    ((2, 2, 2, 2, 2), False, False),
    ((2, 4, 1, 1), True, True),
]


TRAINED = [some for some in itertools.product([True, False], repeat=3) if any(some)]


@pytest.mark.parametrize(("shape", "weight", "bias"), CASES)
def test_values_and_derivatives_to_the_third_order(shape, weight, bias) -> None:
    parts = {"x": draw(*shape), **affine(shape[1], weight, bias)}
    leaves = [part.requires_grad_() for part in parts.values()]

    def normalised(*leaves: Tensor, scale: Tensor | None = None) -> Tensor:
        given = dict(zip(parts, leaves, strict=True))
        scale, shift = given.get("weight", scale), given.get("bias")
        return functional.batch_norm(given["x"], *statistics(shape[1]), scale, shift, eps=0.01)

    with EfficientDerivatives(linear=False):
        value = normalised(*leaves)
        assert "_BatchNorm" in name(value)

    def efficient(*leaves: Tensor) -> Tensor:
        with EfficientDerivatives(linear=False):
            return normalised(*leaves)

    assert gradcheck(efficient, leaves)
    assert gradgradcheck(efficient, leaves)
    # With a bias and no weight PyTorch's own formula fails at the second order.
    plain = normalised(*leaves, scale=torch.ones(shape[1], dtype=torch.float64))
    assert torch.equal(value, plain)
    u, seen = draw(*value.shape, seed=3).requires_grad_(), []
    total = lambda parts: torch.cat([part.sin().flatten() for part in parts]).sum()
    for output in (value, plain):
        first = torch.autograd.grad(output, leaves, u, create_graph=True)
        second = torch.autograd.grad(total(first), [*leaves, u], create_graph=True, materialize_grads=True)
        third = torch.autograd.grad(total(second), [*leaves, u], materialize_grads=True)
        seen.append((first, second, third))
    assert all(torch.equal(a, b) for a, b in zip(seen[0][0], seen[1][0], strict=True))
    for order in (1, 2):
        for a, b in zip(seen[0][order], seen[1][order], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("trained", TRAINED)
@pytest.mark.parametrize("linear", [True, False])
def test_along_some_of_the_cotangents(trained: tuple[bool, ...], linear: bool) -> None:
    """Frozen inputs, weights or biases, and cotangents of some of the gradients alone."""
    x, weight, bias = draw(2, 3, 2, 2), draw(3, seed=1), draw(3, seed=2)
    leaves = [t for t, learned in zip((x, weight, bias), trained, strict=True) if learned]
    for leaf in leaves:
        leaf.requires_grad_()
    found = []
    for mode in (EfficientDerivatives(linear), None):
        if mode is not None:
            with mode:
                value = functional.batch_norm(x, *statistics(3), weight, bias)
        else:
            value = functional.batch_norm(x, *statistics(3), weight, bias)
        u = draw(*value.shape, seed=3).requires_grad_()
        pulled = torch.autograd.grad(value, leaves, u, create_graph=True)
        towards = [u] if linear else [u, *leaves]
        options: dict[str, Any] = {"retain_graph": True, "materialize_grads": True}
        for count in range(1, len(leaves) + 1):
            for some in itertools.combinations(range(len(leaves)), count):
                v = [draw(*leaves[k].shape, seed=4 + k) for k in some]
                found.append(torch.autograd.grad([pulled[k] for k in some], towards, v, **options))
    half = len(found) // 2
    for mine, theirs in zip(found[:half], found[half:], strict=True):
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_what_it_leaves_to_pytorch() -> None:
    x, weight, bias = draw(4, 3, 2, 2), draw(3, seed=1).requires_grad_(), draw(3, seed=2)
    mean, variance = statistics(3)
    with EfficientDerivatives(linear=False):
        batch_norm = lambda *args, **kwargs: name(functional.batch_norm(*args, **kwargs))
        assert "_BatchNorm" in batch_norm(x, mean, variance, weight, bias)
        assert "_BatchNorm" in name(
            torch.batch_norm(x, weight, bias, mean, variance, False, 0.1, 1e-5, False)
        )
        assert "_BatchNorm" not in batch_norm(x, mean, variance, weight, bias, training=True)
        assert "_BatchNorm" not in batch_norm(x, None, None, weight, bias, training=True)
        with pytest.raises(RuntimeError, match="not differentiable with respect to argument 'running_mean'"):
            batch_norm(x, mean.clone().requires_grad_(), variance, weight, bias)
        single = (mean.float(), variance.float(), weight.float(), bias.float())
        assert "_BatchNorm" not in batch_norm(x.bfloat16(), *single)
        assert functional.batch_norm(x, mean, variance, weight.detach()).grad_fn is None
        with torch.no_grad():
            assert functional.batch_norm(x, mean, variance, weight).grad_fn is None
        with torch.autocast("cpu", torch.bfloat16):
            assert "_BatchNorm" not in batch_norm(x, mean, variance, weight, bias)
        jacobian = torch.func.jacrev(lambda w: functional.batch_norm(x, mean, variance, w).sum())(bias)
        with pytest.raises(ValueError, match="non-negative"):
            batch_norm(x, mean, variance, weight, eps=-1.0)
        with pytest.raises(RuntimeError, match="running_mean should contain 3 elements"):
            batch_norm(x, mean[:2], variance, weight)
    expected = functional.batch_norm(x, mean, variance).sum((0, 2, 3))
    torch.testing.assert_close(jacobian, expected)


class Passes(TorchDispatchMode):
    """Counts the operations that read or write whole activations."""

    def __init__(self, numel: int) -> None:
        super().__init__()
        self.numel, self.count = numel, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        flat = tree_leaves((args, kwargs, out))
        view = func.is_view or "empty" in str(func) or "detach" in str(func)
        if not view and any(isinstance(t, Tensor) and t.numel() == self.numel for t in flat):
            self.count += 1
        return out


def test_three_passes_over_the_activations_in_place_of_nine() -> None:
    x, weight = draw(4, 3, 5, 5).requires_grad_(), draw(3, seed=1).requires_grad_()
    bias, counted = draw(3, seed=2).requires_grad_(), []
    leaves = [x, weight, bias]
    for mode in (EfficientDerivatives(linear=False), None):
        if mode is None:
            value = functional.batch_norm(x, *statistics(3), weight, bias)
        else:
            with mode:
                value = functional.batch_norm(x, *statistics(3), weight, bias)
        u = draw(*value.shape, seed=3).requires_grad_()
        pulled = torch.autograd.grad(value, leaves, u, create_graph=True)
        v = [draw(*leaf.shape, seed=4) for leaf in leaves]
        with Passes(x.numel()) as passes:
            torch.autograd.grad(pulled, [u, *leaves], v, materialize_grads=True, allow_unused=True)
        counted.append(passes.count)
    assert counted[0] == 3
    assert counted[1] >= 9


class Normalised(nn.Module):
    """One normalisation twice, one without weights, one frozen, behind layers with curvature."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3)
        self.bare, self.flat = nn.BatchNorm2d(3, affine=False), nn.BatchNorm1d(3)
        self.last = nn.Linear(3, 2)
        self.flat.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.norm(torch.tanh(self.norm(self.first(x)))))
        return self.last(self.flat(self.bare(hidden).sigmoid().mean((2, 3))))


@pytest.mark.parametrize("kept", [True, False])
def test_products_of_a_network_are_those_of_its_dense_matrices(kept: bool) -> None:
    model = Normalised().double()
    with torch.no_grad():
        for k, t in enumerate([*model.parameters(), *model.buffers()]):
            if t.is_floating_point():
                t.copy_(draw(*t.shape, seed=k) / 2)
        for layer in (model.norm, model.bare, model.flat):
            assert layer.running_var is not None
            layer.running_var.exp_()
    x, y = draw(5, 1, 3, 3), draw(5, 2, seed=9)
    specimen = Specimen(model, Regression(), (x, y), batch_size=2).prepared()
    before = [t.detach().clone() for t in model.state_dict().values()]
    memory = 2**30 if kept else 0
    for operator, dense in ((Hessian, dense_hessian), (GaussNewton, dense_gauss_newton)):
        matrix = operator(specimen, memory_bytes=memory)
        torch.testing.assert_close(matrix.to_dense(), dense(specimen), rtol=1e-9, atol=1e-11)
    rows = ParameterJacobian(specimen, memory_bytes=memory)
    v, u = draw(rows.shape[1], seed=3), draw(rows.shape[0], seed=4)
    assert torch.allclose(u @ rows.matvec(v), rows.T.matvec(u) @ v, rtol=1e-10)
    assert all(torch.equal(t, b) for t, b in zip(model.state_dict().values(), before, strict=True))
