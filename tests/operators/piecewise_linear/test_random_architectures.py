"""Networks of random steps are never called exact wrongly, and always rightly where nothing bends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from torchstone.operators import curved_parameters

Never = Callable[[Tensor, Mapping[str, Tensor]], dict[str, str]]


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


STEPS = st.one_of(
    st.tuples(st.just("linear"), st.integers(0, 3)),
    st.tuples(st.just("transposed"), st.integers(0, 3)),
    st.tuples(st.just("bias"), st.integers(0, 2)),
    st.tuples(st.just("scale"), st.integers(0, 2)),
    st.tuples(
        st.sampled_from(["act", "residual"]),
        st.sampled_from(
            ["relu", "leaky relu", "hardtanh", "abs", "max", "tanh", "gelu", "softplus", "square"]
        ),
    ),
    st.tuples(st.sampled_from(["gate", "add", "maximum", "cat"]), st.integers(0, 5)),
    st.tuples(st.just("norm"), st.sampled_from(["layer", "batch", "batch of batch", "group", "softmax"])),
    st.tuples(st.just("attention"), st.integers(0, 5)),
    st.tuples(st.just("conv"), st.integers(0, 1)),
    st.tuples(st.just("recurrent"), st.integers(0, 3)),
    st.tuples(st.just("divide"), st.integers(0, 2)),
    st.tuples(st.just("select"), st.integers(0, 5)),
    st.tuples(st.just("prelu"), st.integers(0, 2)),
)


ACTS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "leaky relu": F.leaky_relu,
    "hardtanh": F.hardtanh,
    "abs": torch.abs,
    "max": lambda h: torch.maximum(h, h.roll(1, 1)),
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "softplus": F.softplus,
    "square": lambda h: 0.3 * h.square(),
}


WIDTH = 4


@dataclass
class State:
    """What a step of a random network sees."""

    h: Tensor
    back: Tensor
    x: Tensor
    square: Tensor
    vector: Tensor
    choice: Any
    parameters: dict[str, Tensor]


def _attention(state: State) -> Tensor:
    rows, keys = state.h.reshape(-1, 2, 2), state.back.reshape(-1, 2, 2)
    return torch.bmm(torch.bmm(rows, keys.mT).softmax(-1), rows).reshape(-1, WIDTH)


def _recurrent(state: State) -> Tensor:
    h = state.h
    for _ in range(2):
        h = F.relu(h @ state.square + state.x)
    return h


RUN: dict[str, Callable[[State], Tensor]] = {
    "linear": lambda s: s.h @ s.square,
    "transposed": lambda s: F.linear(s.h, s.square, s.parameters["v0"]),
    "bias": lambda s: s.h + s.vector,
    "scale": lambda s: s.h * s.vector,
    "act": lambda s: ACTS[s.choice](s.h),
    "residual": lambda s: s.h + ACTS[s.choice](s.h @ s.parameters["w0"]),
    "gate": lambda s: s.h * s.back,
    "add": lambda s: s.h - 0.5 * s.back,
    "maximum": lambda s: torch.maximum(s.h, s.back),
    "cat": lambda s: torch.cat([s.h, s.back], 1)[:, ::2],
    "norm": lambda s: _normalised(s.h, s.choice, s.parameters),
    "attention": _attention,
    "conv": lambda s: F.conv1d(s.h[:, None], s.parameters[f"k{s.choice}"], padding=1)[:, 0],
    "recurrent": _recurrent,
    "divide": lambda s: s.h / (2 + s.vector.abs()),
    "select": lambda s: torch.where(s.back > 0, s.h, s.h.flip(1)),
    "prelu": lambda s: F.prelu(s.h, s.vector),
}


def run(steps: list[tuple[str, Any]], parameters: dict[str, Tensor], x: Tensor) -> Tensor:
    """A network of random steps on (N, WIDTH); every step can look back at any earlier activation."""
    past = [x]
    for kind, choice in steps:
        back = past[choice % len(past)] if isinstance(choice, int) else x
        square = parameters.get(f"w{choice}", parameters["w0"])
        vector = parameters.get(f"v{choice}", parameters["v0"])
        past.append(RUN[kind](State(past[-1], back, x, square, vector, choice, parameters)))
    return past[-1]


def _normalised(h: Tensor, choice: str, parameters: dict[str, Tensor]) -> Tensor:
    v0, v1 = parameters["v0"], parameters["v1"]
    if choice == "layer":
        return F.layer_norm(h, (WIDTH,), v0, v1)
    if choice == "batch":
        return F.batch_norm(h, randn(WIDTH), randn(WIDTH).exp(), v0, v1)
    if choice == "batch of batch":
        return F.batch_norm(h, None, None, v0, v1, training=True)
    return F.group_norm(h, 2, v0, v1) if choice == "group" else h.softmax(1)


def make_parameters(seed: int) -> dict[str, Tensor]:
    shapes = {f"w{i}": (WIDTH, WIDTH) for i in range(4)}
    vectors = {f"v{i}": (WIDTH,) for i in range(3)}
    kernels = {f"k{i}": (1, 1, 3) for i in range(2)}
    return {
        name: randn(*shape, seed=100 * seed + position).requires_grad_(True)
        for position, (name, shape) in enumerate((shapes | vectors | kernels).items())
    }


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(steps=st.lists(STEPS, min_size=1, max_size=7), seed=st.integers(0, 5))
def test_random_architectures_are_never_called_exact_wrongly(
    steps: list[tuple[str, Any]], seed: int, assert_never_wrong: Never
) -> None:
    parameters = make_parameters(seed)
    outputs = run(steps, parameters, randn(3, WIDTH, seed=50 + seed))
    if outputs.requires_grad:
        assert_never_wrong(outputs, parameters)


PLAIN = {"linear", "bias", "act", "add", "maximum", "select", "conv", "cat"}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(steps=st.lists(STEPS, min_size=1, max_size=7), seed=st.integers(0, 5))
def test_piecewise_linear_networks_are_always_called_exact(steps: list[tuple[str, Any]], seed: int) -> None:
    """A rule that never says exact would pass the test above."""
    parameters = make_parameters(seed)
    kept: list[tuple[str, Any]] = []
    for step in steps:
        kind, choice = step
        if kind not in PLAIN or choice in ("tanh", "gelu", "softplus", "square"):
            continue
        if kind in ("linear", "bias", "conv") and step in kept:
            continue  # each parameter in one place only
        kept.append(step)
    outputs = run(kept, parameters, randn(3, WIDTH, seed=50 + seed))
    assert curved_parameters(outputs, outputs.sum(), parameters) == {}
