"""The binomial schedule covers what it promises, and checkpointed gradients are the plain ones, bit for bit."""

from __future__ import annotations

import functools
import itertools

import pytest
import torch
from torch import Tensor, nn

from torchstone.autodiff import (
    binomial_schedule,
    checkpointed,
    fewest_advances,
    fewest_repeats,
    reversible_steps,
)
from torchstone.errors import SettingError


def carried_out(steps: int, states: int) -> tuple[list[int], int]:
    """Carry out a schedule on the numbers of states: how often each step is advanced over, and most states stored."""
    stored: set[int] = set()
    advanced, most, current, pulled = [0] * steps, 0, 0, steps
    for action in binomial_schedule(steps, states):
        if action.kind == "store":
            assert action.at == current
            stored.add(action.at)
        elif action.kind == "restore":
            assert action.at in stored
            current = action.at
        elif action.kind == "free":
            stored.remove(action.at)
        elif action.kind == "advance":
            assert action.at == current
            for step in range(action.at, action.to):
                advanced[step] += 1
            current = action.to
        else:
            assert action.at == current
            assert action.at == pulled - 1, "steps are reversed one after another"
            pulled = action.at
        most = max(most, len(stored))
    assert pulled == 0
    assert not stored
    return advanced, most


@functools.cache
def optimal(steps: int, states: int) -> int:
    """Fewest advances by dynamic programming over where to store next."""
    if steps == 1:
        return 0
    if states == 1:
        return steps * (steps - 1) // 2
    return min(m + optimal(steps - m, states - 1) + optimal(m, states) for m in range(1, steps))


@pytest.mark.parametrize(("states", "repeats"), list(itertools.product(range(1, 7), range(7))))
def test_a_schedule_covers_the_binomial_number_of_steps(states: int, repeats: int) -> None:
    steps = reversible_steps(states, repeats)
    advanced, most = carried_out(steps, states)
    assert max(advanced) == repeats
    assert most <= states
    assert fewest_repeats(steps, states) == repeats
    assert fewest_repeats(steps + 1, states) == repeats + 1


@pytest.mark.parametrize("states", range(1, 6))
def test_no_schedule_needs_fewer_advances(states: int) -> None:
    for steps in range(1, 40):
        advanced, most = carried_out(steps, states)
        assert sum(advanced) == optimal(steps, states) == fewest_advances(steps, states)
        assert most <= states


class Noisy(nn.Module):
    """Dropout and batch statistics: neither may differ when a step is run again."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.dropout = nn.Linear(6, 6), nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(torch.tanh(self.linear(x)))


def gradients(output: Tensor, wanted: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(output.square().sum(), wanted)


@pytest.mark.parametrize("states", [1, 2, 3, 5, 30])
def test_gradients_have_the_bits_of_plain_backpropagation(states: int) -> None:
    steps = [Noisy().double() for _ in range(12)]
    steps[7] = steps[2]  # shared weights
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    wanted = [x, *dict.fromkeys(p for step in steps for p in step.parameters())]
    state = torch.get_rng_state()
    plain = x
    for step in steps:
        plain = step(plain)
    expected = gradients(plain, wanted)
    after = torch.get_rng_state()
    torch.set_rng_state(state)
    output = checkpointed(steps, x, states)
    assert torch.equal(output, plain)
    assert torch.equal(torch.get_rng_state(), after)
    found = gradients(output, wanted)
    assert torch.equal(torch.get_rng_state(), after)
    # Shared weights are added in another order than autograd adds them in.
    shared = {id(p) for p in steps[2].parameters()}
    for tensor, one, other in zip(wanted, found, expected, strict=True):
        if id(tensor) in shared:
            torch.testing.assert_close(one, other, rtol=1e-14, atol=1e-15)
        else:
            assert torch.equal(one, other)


def test_only_a_few_states_are_alive() -> None:
    alive, most = 0, 0

    class Counted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 1.01

    # Every state that autograd saves for a later backward pass is counted, as plain backpropagation would keep them all.
    def pack(tensor: Tensor) -> Tensor:
        nonlocal alive, most
        alive += 1
        most = max(most, alive)
        return tensor

    def unpack(tensor: Tensor) -> Tensor:
        return tensor

    x = torch.ones(3, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        output = checkpointed([Counted() for _ in range(50)], x, 4)
    assert most <= 2
    torch.testing.assert_close(torch.autograd.grad(output.sum(), x)[0], torch.full((3,), 1.01**50))


def test_frozen_parameters_and_inputs_without_gradient() -> None:
    steps = [nn.Linear(3, 3) for _ in range(4)]
    for parameter in steps[1].parameters():
        parameter.requires_grad_(False)
    checkpointed(steps, torch.ones(2, 3), 2).sum().backward()
    assert steps[1].weight.grad is None
    assert all(steps[i].weight.grad is not None for i in (0, 2, 3))


def test_what_is_refused() -> None:
    x = torch.ones(2, requires_grad=True)
    with pytest.raises(SettingError, match="at least one step"):
        checkpointed([], x, 2)
    with pytest.raises(SettingError, match="states must be a whole number"):
        checkpointed([torch.relu], x, 0)
    with pytest.raises(SettingError, match="steps must be a whole number"):
        list(binomial_schedule(0, 1))
    output = checkpointed([torch.sin, torch.sin], x, 1).sum()
    with pytest.raises(SettingError, match="differentiated once"):
        torch.autograd.grad(output, x, create_graph=True)
