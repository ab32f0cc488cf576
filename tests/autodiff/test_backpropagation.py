"""Backpropagation on chains and graphs against torch.func, its invariant, and what it costs."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from torchstone.autodiff import Affine, Graph, Operation, backpropagation, check_invariant, require_invariant
from torchstone.autodiff.backpropagation import forward
from torchstone.autodiff.operation import (
    ABSOLUTE,
    EXP,
    RELU,
    SIGMOID,
    SINE,
    SOFTPLUS,
    SQUARE,
    TANH,
    Add,
    Apply,
    LogSumExp,
    Multiply,
    SquaredLoss,
)
from torchstone.errors import NumericalError, SettingError

ELEMENTWISE = [RELU, ABSOLUTE, TANH, SIGMOID, SOFTPLUS, SINE, SQUARE]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_chain(seed: int, length: int = 8) -> tuple[list[Operation], Tensor]:
    """Affine maps between random sizes, random activations, and now and then a scalar end."""
    g = generator(seed)
    sizes = torch.randint(1, 7, (length + 1,), generator=g).tolist()
    steps: list[Operation] = []
    for before, after in itertools.pairwise(sizes):
        weight = torch.randn(after, before, generator=g, dtype=torch.float64) / before**0.5
        bias = torch.randn(after, generator=g, dtype=torch.float64) if after % 2 else None
        steps += [Affine(weight, bias), ELEMENTWISE[int(torch.randint(len(ELEMENTWISE), (), generator=g))]]
    if seed % 3 == 1:
        steps.append(LogSumExp())
    if seed % 3 == 2:
        steps.append(SquaredLoss(torch.randn(sizes[-1], generator=g, dtype=torch.float64)))
    return steps, torch.randn(sizes[0], generator=g, dtype=torch.float64)


@pytest.mark.parametrize("seed", range(20))
def test_random_chains_have_the_jacobian_of_automatic_differentiation(seed: int) -> None:
    steps, w = random_chain(seed)
    found = backpropagation(steps, w)
    expected = torch.func.jacrev(lambda w: forward(steps, w)[-1])(w)
    torch.testing.assert_close(found.jacobian, expected, rtol=1e-10, atol=1e-10)
    assert torch.equal(found.output, forward(steps, w)[-1])
    assert [jacobian.shape[1] for jacobian in found.jacobians] == [value.numel() for value in found.values]


@pytest.mark.parametrize("seed", range(20))
def test_the_invariant_holds_at_every_step(seed: int) -> None:
    steps, w = random_chain(seed)
    found = check_invariant(steps, w)
    assert len(found.errors) == len(steps) + 1
    assert max(found.errors) < 1e-10
    assert not found.wrong
    require_invariant(steps, w)


def test_a_cotangent_gives_the_gradient_of_one_combination_of_outputs() -> None:
    steps, w = random_chain(0)
    whole = backpropagation(steps, w)
    u = torch.randn(1, whole.output.numel(), generator=generator(), dtype=torch.float64)
    found = backpropagation(steps, w, u)
    torch.testing.assert_close(found.jacobian, u @ whole.jacobian)
    assert found.backward_operations * whole.output.numel() == whole.backward_operations


@dataclass(frozen=True)
class Wrong(Operation):
    """tanh whose derivative forgets the square."""

    def value(self, *inputs: Tensor) -> Tensor:
        return torch.tanh(inputs[0])

    def pull(self, jacobian: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        return (jacobian * (1 - torch.tanh(inputs[0])),)


@pytest.mark.parametrize("positions", [(3,), (1,), (8,), (2, 6)])
def test_a_wrong_derivative_is_localised(positions: tuple[int, ...]) -> None:
    g = generator()
    steps: list[Operation] = [
        Affine(torch.randn(5, 5, generator=g, dtype=torch.float64)) if i % 2 else TANH for i in range(1, 9)
    ]
    for position in positions:
        steps[position - 1] = Wrong()
    w = torch.randn(5, generator=g, dtype=torch.float64)
    found = check_invariant(steps, w)
    assert found.wrong == positions
    last = max(positions)
    assert max(found.errors[last:]) < 1e-10  # right behind the last wrong step
    assert min(found.errors[:last]) > 1e-6  # and wrong from there on
    with pytest.raises(NumericalError, match=rf"step {positions[0]} \(Wrong\)"):
        require_invariant(steps, w)


def test_costs_are_linear_in_the_depth() -> None:
    g = generator()
    layer = [Affine(torch.randn(9, 9, generator=g, dtype=torch.float64)), RELU]
    w, u = torch.ones(9, dtype=torch.float64), torch.ones(1, 9, dtype=torch.float64)
    depths = [1, 2, 4, 8, 16, 32]
    runs = [backpropagation(layer * depth, w, u) for depth in depths]
    for name in ("forward_operations", "backward_operations"):
        counted = np.array([getattr(run, name) for run in runs])
        assert np.allclose(counted, counted[0] * np.array(depths))
        assert counted[0] == 2 * 81 + 9


def test_what_is_no_chain_is_refused() -> None:
    with pytest.raises(SettingError, match="at least one step"):
        backpropagation([], torch.ones(2))
    with pytest.raises(SettingError, match=r"must be a vector; got shape \(2, 2\)"):
        backpropagation([RELU], torch.ones(2, 2))


def test_relu_is_bitwise_that_of_torch_at_zero_too() -> None:
    u = torch.randn(100_000, generator=generator())
    u[::7] = 0.0
    u[1::7] = -0.0
    leaf = u.clone().requires_grad_(True)
    cotangent = torch.randn(100_000, generator=generator(1))
    (expected,) = torch.autograd.grad(torch.relu(leaf), leaf, cotangent)
    (found,) = RELU.pull(cotangent[None], u)
    assert torch.equal(found[0], expected)
    assert torch.equal(RELU.value(u), torch.relu(u))


@pytest.mark.parametrize("operation", [*ELEMENTWISE, EXP])
def test_slopes_are_those_of_torch(operation: Operation) -> None:
    u = torch.randn(1000, generator=generator(), dtype=torch.float64).requires_grad_(True)
    (expected,) = torch.autograd.grad(operation.value(u).sum(), u)
    (found,) = operation.pull(torch.ones(1, 1000, dtype=torch.float64), u.detach())
    torch.testing.assert_close(found[0], expected, rtol=1e-12, atol=1e-14)


def test_graphs_add_what_comes_back_along_several_ways() -> None:
    g = generator()
    inputs = {
        "A": torch.randn(12, generator=g, dtype=torch.float64),
        "x": torch.randn(4, generator=g, dtype=torch.float64),
        "unused": torch.randn(2, generator=g, dtype=torch.float64),
    }
    graph = Graph()
    A, x, _ = (graph.input(name) for name in inputs)
    hidden = graph.add(TANH, graph.add(Apply(), A, x))
    again = graph.add(Multiply(), hidden, graph.add(SINE, hidden))
    output = graph.add(Add(), again, hidden, graph.add(Apply(), A, x))

    def function(A: Tensor, x: Tensor) -> Tensor:
        hidden = torch.tanh(A.view(3, 4) @ x)
        return hidden * hidden.sin() + hidden + A.view(3, 4) @ x

    found = graph.gradients(inputs, output)
    expected = torch.func.jacrev(function, (0, 1))(inputs["A"], inputs["x"])
    torch.testing.assert_close((found["A"], found["x"]), expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(found["unused"], torch.zeros(3, 2, dtype=torch.float64))
    assert torch.equal(graph.gradients(inputs, x)["x"], torch.eye(4, dtype=torch.float64))


def test_graphs_that_cannot_be_are_refused() -> None:
    graph = Graph()
    graph.input("x")
    with pytest.raises(SettingError, match="'x' twice"):
        graph.input("x")
    with pytest.raises(SettingError, match="number 7"):
        graph.add(RELU, 7)
    with pytest.raises(SettingError, match="none for 'x'"):
        graph.gradients({}, 0)
