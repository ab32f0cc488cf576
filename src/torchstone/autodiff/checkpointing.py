"""Differentiate a long chain of modules with few stored states, by the binomial schedule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from torchstone.autodiff.schedule import binomial_schedule
from torchstone.errors import SettingError

Step = Callable[[Tensor], Tensor]


def checkpointed(steps: Sequence[Step], x: Tensor, states: int) -> Tensor:
    """f_L(... f_1(x)) whose backward pass stores at most `states` intermediate states at a time.

    The gradients have the bits of plain backpropagation. `torch.utils.checkpoint.checkpoint_sequential` with sqrt(L)
    segments stores about 2 sqrt(L) states and runs each step twice; with s states this runs each step at most
    r + 1 times, where (s + r)! / (s! r!) >= L: 10 states and r = 3 reverse 286 steps.

    Cost: forward, L steps; backward, `fewest_advances(L, states)` steps forward and L with their derivatives; memory
    of `states` states and of one step's graph. Random numbers inside steps (dropout) are drawn the same each time.

    Args:
        steps: f_1, ..., f_L: modules or functions of one tensor. Parameters are found in modules only.
        x: The input.
        states: Stored states s, the input's included, at least 1.

    Returns:
        The output; differentiate it as usual, once.

    Raises:
        SettingError: No steps, or fewer than one state.

    Source: Griewank & Walther 2000, ACM TOMS 26(1); Chen et al. 2016.
    """
    if not steps:
        raise SettingError("checkpointed needs at least one step", "none", "Pass a list of modules.")
    if not isinstance(states, int) or isinstance(states, bool) or states < 1:
        raise SettingError("states must be a whole number of at least 1", repr(states), "Raise it.")
    parameters = {
        id(p): p
        for step in steps
        if isinstance(step, nn.Module)
        for p in step.parameters()
        if p.requires_grad
    }
    return _Checkpointed.apply(steps, states, x, *parameters.values())


class _Checkpointed(torch.autograd.Function):
    """Runs forward without a graph, and backward by the schedule."""

    @staticmethod
    def forward(ctx: Any, steps: Sequence[Step], states: int, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.steps, ctx.states, ctx.random = steps, states, []
        ctx.save_for_backward(x, *parameters)
        state = x
        for step in steps:
            ctx.random.append(_random_state(x.device))
            state = step(state)
        return state.view_as(state)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise SettingError(
                "checkpointed can be differentiated once", "create_graph=True", "Use torch.utils.checkpoint."
            )
        x, *parameters = ctx.saved_tensors
        run = _Reverse(ctx.steps, ctx.random, parameters, gradients[0])
        cuda = [x.device.index or 0] if x.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):
            run.all(x.detach(), ctx.states)
        needs = ctx.needs_input_grad
        return None, None, run.cotangent if needs[2] else None, *run.totals


class _Reverse:
    """Carries out a schedule."""

    def __init__(
        self, steps: Sequence[Step], random: list[Any], parameters: list[Tensor], cotangent: Tensor
    ) -> None:
        self.steps, self.random, self.parameters, self.cotangent = steps, random, parameters, cotangent
        self.totals: list[Tensor | None] = [None] * len(parameters)

    def all(self, x: Tensor, states: int) -> None:
        stored: dict[int, Tensor] = {}
        state = x
        for action in binomial_schedule(len(self.steps), states):
            if action.kind == "store":
                stored[action.at] = state
            elif action.kind == "restore":
                state = stored[action.at]
            elif action.kind == "free":
                del stored[action.at]
            elif action.kind == "advance":
                with torch.no_grad():
                    for index in range(action.at, action.to):
                        state = self._step(index, state)
            else:
                self._backward(action.at, state)

    def _step(self, index: int, state: Tensor) -> Tensor:
        _set_random_state(self.random[index], state.device)
        return self.steps[index](state)

    def _backward(self, index: int, state: Tensor) -> None:
        leaf = state.detach().requires_grad_(state.is_floating_point())
        with torch.enable_grad():
            output = self._step(index, leaf)
        own = {id(p) for p in _parameters(self.steps[index])}
        wanted = [i for i, p in enumerate(self.parameters) if id(p) in own]
        targets = [*([leaf] if leaf.requires_grad else []), *(self.parameters[i] for i in wanted)]
        found = list(torch.autograd.grad(output, targets, self.cotangent, materialize_grads=True))
        self.cotangent = found.pop(0) if leaf.requires_grad else self.cotangent
        for i, part in zip(wanted, found, strict=True):
            total = self.totals[i]
            self.totals[i] = part if total is None else total + part


def _parameters(step: Step) -> list[Tensor]:
    return list(step.parameters()) if isinstance(step, nn.Module) else []


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    on_cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return torch.get_rng_state(), on_cuda


def _set_random_state(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
