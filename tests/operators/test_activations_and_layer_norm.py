"""Activations, layer normalisation and softmax inside `EfficientDerivatives`: PyTorch's values and derivatives, in fewer passes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from torchstone.objectives import Regression
from torchstone.operators import GaussNewton, Hessian
from torchstone.operators.efficient_derivatives import EfficientDerivatives
from torchstone.specimen import Specimen
from torchstone.testing.dense import dense_gauss_newton, dense_hessian


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def name(value: Tensor) -> str:
    return value.grad_fn.name() if value.grad_fn is not None else ""


def efficient(function: Callable[..., Tensor], linear: bool = False) -> Callable[..., Tensor]:
    def called(*leaves: Tensor) -> Tensor:
        with EfficientDerivatives(linear):
            return function(*leaves)

    return called


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu by tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "silu": functional.silu,
    "mish": functional.mish,
    "softplus": lambda x: functional.softplus(x, 2.0, threshold=3.0),
    "softplus of a module": nn.Softplus(beta=0.5),
    "log sigmoid": functional.logsigmoid,
    "elu": lambda x: functional.elu(x, 0.7),
    "selu": functional.selu,
    "celu": lambda x: functional.celu(x, alpha=0.5),
    "softsign": functional.softsign,
    "tanh": torch.tanh,
    "tanh of a tensor": lambda x: x.tanh(),
    "tanh of a module": nn.Tanh(),
    "sigmoid": lambda x: torch.sigmoid(input=x),
    "sigmoid of a tensor": lambda x: x.sigmoid(),
}
NORMS: list[tuple[tuple[int, ...], tuple[int, ...], bool, bool]] = [
    ((3, 5), (5,), True, True),
    ((2, 3, 4), (4,), True, False),
    ((2, 3, 4), (3, 4), True, True),
    ((2, 3, 4), (4,), False, False),
    ((4,), (4,), True, True),
    ((3, 1), (1,), True, True),
]


def found(build: Callable[..., Tensor], leaves: list[Tensor], linear: bool, efficient: bool) -> list[Any]:
    """The value, its gradients, and derivatives of these along cotangents of some of them."""
    if efficient:
        with EfficientDerivatives(linear):
            value = build(*leaves)
    else:
        value = build(*leaves)
    u = draw(*value.shape, seed=3).to(value.dtype).requires_grad_()
    first = torch.autograd.grad(value, leaves, u, create_graph=True)
    plain = torch.autograd.grad(value, leaves, u.detach(), retain_graph=True)
    towards = [u] if linear else [u, *leaves]
    second = []
    for count in range(1, len(leaves) + 1):
        for some in itertools.combinations(range(len(leaves)), count):
            v = [draw(*leaves[k].shape, seed=4 + k).to(value.dtype) for k in some]
            options: dict[str, Any] = {"retain_graph": True, "materialize_grads": True}
            second += torch.autograd.grad([first[k] for k in some], towards, v, **options)
    return [value, first, plain, second]


def assert_the_same(build: Callable[..., Tensor], leaves: list[Tensor], linear: bool) -> None:
    mine, theirs = (found(build, leaves, linear, efficient) for efficient in (True, False))
    assert torch.equal(mine[0], theirs[0])
    for order in (1, 2, 3):
        for a, b in zip(mine[order], theirs[order], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activations_have_pytorchs_derivatives(kind: str, linear: bool) -> None:
    x = 3 * draw(4, 5)
    x[0, 0] = 0.0
    leaf, function = x.requires_grad_(), ACTIVATIONS[kind]
    assert_the_same(function, [leaf], linear)
    with EfficientDerivatives(linear):
        assert "_Elementwise" in name(function(leaf))
    away = x.detach()[1:].requires_grad_()  # of 0, where elu bends
    assert gradcheck(efficient(function, linear), away)
    assert linear or gradgradcheck(efficient(function), away)


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize(("shape", "normalised", "weight", "bias"), NORMS)
def test_layer_norm_has_pytorchs_derivatives(shape, normalised, weight, bias, linear) -> None:
    parts = {"input": 3 * draw(*shape) + 5}
    parts |= {"weight": draw(*normalised, seed=1)} if weight else {}
    parts |= {"bias": draw(*normalised, seed=2)} if bias else {}

    def build(*leaves: Tensor) -> Tensor:
        return functional.layer_norm(
            normalized_shape=normalised, eps=0.1, **dict(zip(parts, leaves, strict=True))
        )

    leaves = [part.requires_grad_() for part in parts.values()]
    assert_the_same(build, leaves, linear)
    with EfficientDerivatives(linear):
        assert "_LayerNorm" in name(build(*leaves))
    assert gradcheck(efficient(build, linear), leaves)
    assert linear or gradgradcheck(efficient(build), leaves)


SOFTMAX: dict[str, Callable[[Tensor], Tensor]] = {
    "of a module": nn.Softmax(dim=1),
    "of the functions": lambda x: functional.softmax(x, -1),
    "of PyTorch": lambda x: torch.softmax(input=x, dim=0),
    "of a tensor": lambda x: x.softmax(2),
}


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("kind", SOFTMAX)
def test_softmax_has_pytorchs_derivatives(kind: str, linear: bool) -> None:
    leaf, function = 3 * draw(2, 3, 4), SOFTMAX[kind]
    leaf.requires_grad_()
    assert_the_same(function, [leaf], linear)
    assert_the_same(lambda x: function(x.mT) * function(x.mT), [leaf], linear)
    with EfficientDerivatives(linear):
        assert "_Softmax" in name(function(leaf))
    assert gradcheck(efficient(function, linear), leaf)
    assert linear or gradgradcheck(efficient(function), leaf)


TRAINED = [some for some in itertools.product([True, False], repeat=3) if any(some)]


@pytest.mark.parametrize("trained", TRAINED)
@pytest.mark.parametrize("linear", [True, False])
def test_layer_norm_with_frozen_parts(trained: tuple[bool, ...], linear: bool) -> None:
    parts = [draw(2, 3, 4), draw(4, seed=1), draw(4, seed=2)]
    leaves = [part.requires_grad_() for part, learned in zip(parts, trained, strict=True) if learned]
    assert_the_same(lambda *_: functional.layer_norm(parts[0], (4,), parts[1], parts[2]), leaves, linear)


def test_what_is_left_to_pytorch() -> None:
    x, weight = draw(3, 4).requires_grad_(), draw(4, seed=1)
    ours = ("_Elementwise", "_LayerNorm", "_Softmax")
    with EfficientDerivatives(linear=False):
        left = {
            "in place": functional.silu(x.clone(), inplace=True),
            "in place by position": functional.elu(x.clone(), 1.0, True),
            "half precision": functional.gelu(x.bfloat16()),
            "normalisation in half precision": functional.layer_norm(x.bfloat16(), (4,)),
            "relu": torch.relu(x),
            "softmax in another type": torch.softmax(x, 1, dtype=torch.float32),
            "softmax in half precision": torch.softmax(x.bfloat16(), 1),
            "softmax of nothing": torch.softmax(x[:0], 1),
            "nothing to differentiate": torch.tanh(x.detach()),
            "no examples": torch.tanh(x[:0]),
            "no examples to normalise": functional.layer_norm(x[:0], (4,), weight),
            "nothing to differentiate in a normalisation": functional.layer_norm(x.detach(), (4,), weight),
        }
        with torch.no_grad():
            left["no gradients"] = torch.tanh(x)
        with torch.autocast("cpu", torch.bfloat16):
            left["autocast"] = torch.tanh(x)
        left["under a transform"] = torch.func.grad(lambda t: torch.tanh(t).sum())(x)
        out = torch.empty(3, 4, dtype=torch.float64)
        assert torch.equal(torch.tanh(x.detach(), out=out), out)
        with pytest.raises(IndexError, match="Dimension out of range"):
            torch.softmax(x, 2)
        with pytest.raises(RuntimeError, match="Given normalized_shape"):
            functional.layer_norm(x, (5,))
    assert not [case for case, value in left.items() if any(kind in name(value) for kind in ours)]


def test_a_third_derivative_is_refused_and_never_wrong() -> None:
    x = draw(3, 4).requires_grad_()
    for function in (torch.tanh, lambda t: functional.layer_norm(t, (4,)), lambda t: t.softmax(1)):
        with EfficientDerivatives(linear=False):
            value = function(x)
        (first,) = torch.autograd.grad(value.square().sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="differentiated twice, not three times"):
            torch.autograd.grad(first.square().sum(), x, create_graph=True)


class Passes(TorchDispatchMode):
    """Counts the operations that read or write whole activations."""

    def __init__(self, numel: int) -> None:
        super().__init__()
        self.numel, self.count = numel, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        view = func.is_view or "empty" in str(func) or "detach" in str(func)
        whole = (isinstance(t, Tensor) and t.numel() == self.numel for t in tree_leaves((args, kwargs, out)))
        self.count += not view and any(whole)
        return out


@pytest.mark.parametrize(
    ("function", "most", "pytorchs"),
    [
        (functional.gelu, 2, 8),  # u f'(x) and u f''(x) g
        (lambda t: functional.layer_norm(t, (6,), draw(6, seed=1), draw(6, seed=2)), 11, 30),
        (lambda t: t.softmax(1), 7, 11),  # with the softmax's own backward pass
    ],
)
def test_passes_over_the_activations(function: Callable[[Tensor], Tensor], most: int, pytorchs: int) -> None:
    x, counted = draw(5, 6).requires_grad_(), []
    for mode in (EfficientDerivatives(linear=False), None):
        if mode is not None:
            with mode:
                value = function(x)
        else:
            value = function(x)
        u = draw(5, 6, seed=3).requires_grad_()
        (pulled,) = torch.autograd.grad(value, x, u, create_graph=True)
        v = draw(5, 6, seed=4)
        with Passes(x.numel()) as passes:
            torch.autograd.grad(pulled, [u, x], v)
        counted.append(passes.count)
    assert counted[0] <= most
    assert counted[1] >= pytorchs, counted


class Block(nn.Module):
    """One activation and one normalisation twice, other kinds once, a frozen weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)
        self.bare, self.act = nn.LayerNorm([2, 4], elementwise_affine=False), nn.GELU()
        self.norm.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.act(self.norm(self.act(self.norm(self.first(x)))))
        mixed = (hidden @ hidden.mT).softmax(-1) @ hidden
        return self.last((self.bare(mixed) + functional.silu(hidden)).sum(1).tanh())


@pytest.mark.parametrize("kept", [True, False])
def test_products_of_a_network_are_those_of_its_dense_matrices(kept: bool) -> None:
    model = Block().double()
    with torch.no_grad():
        for k, t in enumerate(model.parameters()):
            t.copy_(draw(*t.shape, seed=k) / 2)
    x, y = draw(5, 2, 3), draw(5, 2, seed=9)
    memory = 2**30 if kept else 0
    for size in (2, 5):  # several batches; one, whose sum is not made in float64 again
        specimen = Specimen(model, Regression(), (x, y), batch_size=size).prepared()
        for operator, dense in ((Hessian, dense_hessian), (GaussNewton, dense_gauss_newton)):
            matrix = operator(specimen, memory_bytes=memory)
            torch.testing.assert_close(matrix.to_dense(), dense(specimen), rtol=1e-9, atol=1e-11)
            v = draw(matrix.shape[0], seed=11)
            once = matrix.matvec(v).clone()
            assert torch.equal(matrix.matvec(v), once), "a product changes nothing that the next one needs"
