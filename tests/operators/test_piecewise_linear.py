"""The decision that a parameter's block of the Hessian has the trace of its Gauss-Newton block must never be wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from torchstone.operators import curved_parameters

SIZE = 6
weight_norm: Any = vars(torch)["_weight_norm"]  # what torch.nn.utils.parametrizations.weight_norm calls


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def diagonal_traces(
    outputs: Tensor, parameters: Mapping[str, Tensor], seed: int = 9
) -> dict[str, tuple[float, float]]:
    """Trace of each block of the Hessian and of the Gauss-Newton matrix, of a loss that is curved in the outputs."""
    flat = outputs.reshape(-1)
    target = randn(flat.numel(), seed=seed)
    loss = (flat - target).square().sum() + flat.sin().sum()
    curvature = 2 - flat.detach().sin()
    found = {}
    for name, parameter in parameters.items():
        (gradient,) = torch.autograd.grad(
            loss, parameter, create_graph=True, retain_graph=True, materialize_grads=True
        )
        entries = gradient.reshape(-1)
        second = 0.0
        for position, entry in enumerate(entries if gradient.requires_grad else ()):
            (row,) = torch.autograd.grad(entry, parameter, retain_graph=True, materialize_grads=True)
            second += float(row.reshape(-1)[position])
        rows = [
            torch.autograd.grad(one, parameter, retain_graph=True, materialize_grads=True)[0].reshape(-1)
            for one in flat
        ]
        gauss_newton = float((curvature[:, None] * torch.stack(rows).square()).sum())
        found[name] = (second, gauss_newton)
    return found


def assert_never_wrong(outputs: Tensor, parameters: Mapping[str, Tensor]) -> dict[str, str]:
    curved = curved_parameters(outputs, outputs.sum(), parameters)
    for name, (hessian, gauss_newton) in diagonal_traces(outputs, parameters).items():
        if name not in curved:
            assert abs(hessian - gauss_newton) <= 1e-9 * (1 + abs(gauss_newton)), name
    return curved


# -- single operations -------------------------------------------------------------------------------------------------

# Of h (4, 6), which depends linearly on one parameter.
PIECEWISE: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "leaky relu": lambda h: F.leaky_relu(h, 0.2),
    "relu6": F.relu6,
    "hardtanh": F.hardtanh,
    "hardshrink": F.hardshrink,
    "softshrink": F.softshrink,
    "threshold": lambda h: F.threshold(h, 0.1, -2.0),
    "abs": torch.abs,
    "clamp": lambda h: h.clamp(-0.5, 0.5),
    "clamp by itself": lambda h: torch.clamp(h, h.flip(1) - 1, h.roll(1, 1) + 1),
    "maximum": lambda h: torch.maximum(h, -h),
    "minimum": lambda h: torch.minimum(h, h.flip(1)),
    "max": lambda h: h.max(1).values,
    "max of all": lambda h: h.max(),
    "amin": lambda h: h.amin(1),
    "sort": lambda h: h.sort(1).values * randn(SIZE),
    "topk": lambda h: h.topk(2, 1).values,
    "kthvalue": lambda h: h.kthvalue(2, 1).values,
    "median": lambda h: h.median(1).values,
    "cummax": lambda h: h.cummax(1).values,
    "max pool": lambda h: F.max_pool1d(h[:, None], 2),
    "max pool 2d": lambda h: F.max_pool2d(h.reshape(1, 1, 4, 6), 2),
    "max pool 3d": lambda h: F.max_pool3d(h.reshape(1, 1, 2, 2, 6), 2),
    "adaptive max pool": lambda h: F.adaptive_max_pool2d(h.reshape(1, 1, 4, 6), 2),
    "avg pool": lambda h: F.avg_pool2d(h.reshape(1, 1, 4, 6), 2),
    "adaptive avg pool": lambda h: F.adaptive_avg_pool2d(h.reshape(1, 1, 4, 6), (3, 4)),
    "interpolate": lambda h: F.interpolate(h.reshape(1, 1, 4, 6), scale_factor=2, mode="bilinear"),
    "nearest": lambda h: F.interpolate(h.reshape(1, 1, 4, 6), scale_factor=2),
    "reflect": lambda h: F.pad(h.reshape(1, 1, 4, 6), (1, 1, 1, 1), mode="reflect"),
    "pad": lambda h: F.pad(h, (1, 2)),
    "where": lambda h: torch.where(h > 0, 2 * h, h.roll(1, 0)),
    "masked fill": lambda h: h.masked_fill(h > 0.5, 3.0),
    "index": lambda h: h[:, [0, 2, 2]],
    "mask": lambda h: h[h > 0],
    "gather": lambda h: h.gather(1, torch.zeros(4, 1, dtype=torch.long)),
    "cat": lambda h: torch.cat([h, h.flip(0), 2 * h], 1),
    "stack and sum": lambda h: torch.stack([h, h.roll(2, 1)]).sum(0),
    "split": lambda h: h.split(2, 1)[1] - h.chunk(3, 1)[0],
    "unbind": lambda h: h.unbind(1)[0] + h.unbind(0)[1][:4],
    "mean": lambda h: h.mean(0),
    "cumsum": lambda h: h.cumsum(1),
    "constant factor": lambda h: h * randn(SIZE) / 3.0 - 1,
    "by a constant": lambda h: h / randn(SIZE).exp(),
    "constant matrix": lambda h: h @ randn(SIZE, 3) + 1,
    "einsum": lambda h: torch.einsum("nd,dk->kn", h, randn(SIZE, 3)),
    "conv": lambda h: F.conv1d(h[:, None], randn(2, 1, 3), randn(2)),
    "conv transpose": lambda h: F.conv_transpose1d(h[:, None], randn(1, 2, 3)),
    "unfold": lambda h: F.unfold(h.reshape(1, 1, 4, 6), 2),
    "tensor unfold": lambda h: h.unfold(1, 3, 2),
    "fold": lambda h: F.fold(h.reshape(1, 4, 6), (3, 4), (2, 2)),
    "batch norm, stored": lambda h: F.batch_norm(h, randn(6), randn(6).exp(), randn(6), randn(6)),
    "permuted views": lambda h: h.T.reshape(3, 8).unsqueeze(1).squeeze(1).flip(0).roll(1, 0),
    "expand and repeat": lambda h: h[:, None].expand(4, 2, 6) + h.repeat(1, 2).reshape(4, 2, 6),
    "tril and diagonal": lambda h: h[:, :4].tril().diagonal() + h[:, :4].triu().trace(),
    "diag embed": lambda h: torch.diag_embed(h),
    "scatter add": lambda h: torch.zeros(4, 2, dtype=h.dtype).scatter_add(
        1, torch.ones(4, 6, dtype=torch.long), h
    ),
    "index add": lambda h: torch.zeros(2, 6, dtype=h.dtype).index_add(0, torch.tensor([0, 1, 1, 0]), h),
    "index put": lambda h: torch.zeros(4, 6, dtype=h.dtype).index_put((torch.tensor([1, 3]),), h[:2]),
    "lerp": lambda h: torch.lerp(h, h.flip(1), 0.3),
    "cast": lambda h: h.to(torch.float32).double(),
    "copy": lambda h: torch.zeros(4, 6, dtype=h.dtype).copy_(h),
    "in place": lambda h: torch.relu_(h.clone().mul_(2.0).add_(1.0)),
    "pixel shuffle": lambda h: F.pixel_shuffle(h.reshape(1, 4, 2, 3), 2),
    "channel shuffle": lambda h: F.channel_shuffle(h.reshape(1, 4, 2, 3), 2),
    "dropout": lambda h: h * (randn(4, 6) > 0) / 0.5,
    "grid sample": lambda h: F.grid_sample(
        h.reshape(1, 1, 4, 6), randn(1, 3, 3, 2).tanh(), align_corners=False
    ),
    "addcmul of constants": lambda h: torch.addcmul(randn(4, 6), h, randn(4, 6)),
    "detached square": lambda h: h * h.detach(),
    "prelu": lambda h: F.prelu(h, randn(6).abs()),
    "negated reversed subtraction": lambda h: -(1 - h),
    "neg, rot90": lambda h: torch.rot90(-h),
}

CURVED: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "gelu": F.gelu,
    "silu": F.silu,
    "elu": F.elu,
    "softplus": F.softplus,
    "mish": F.mish,
    "hardswish": F.hardswish,
    "exp": torch.exp,
    "square": torch.square,
    "power": lambda h: h**3,
    "itself twice": lambda h: h * h,
    "itself shifted": lambda h: h * h.roll(1, 1),
    "matrix square": lambda h: h @ h.T,
    "batched square": lambda h: torch.bmm(h[None], h.T[None]),
    "addmm": lambda h: torch.addmm(torch.zeros(4, 4).double(), h, h.T),
    "baddbmm": lambda h: torch.baddbmm(torch.zeros(1, 4, 4).double(), h[None], h.T[None]),
    "dot": lambda h: torch.dot(h[0], h[1]),
    "bilinear": lambda h: F.bilinear(h, h, randn(2, 6, 6)),
    "addcmul": lambda h: torch.addcmul(randn(4, 6), h, h),
    "conv with itself": lambda h: F.conv1d(h[:1, None], h[:1, None, :3]),
    "divided by": lambda h: 1 / (2 + h.square().detach() + h),
    "reciprocal": lambda h: torch.reciprocal(h + 9),
    "softmax": lambda h: h.softmax(1),
    "log softmax": lambda h: h.log_softmax(1),
    "logsumexp": lambda h: h.logsumexp(1),
    "layer norm": lambda h: F.layer_norm(h, (6,)),
    "group norm": lambda h: F.group_norm(h, 2),
    "batch norm, of the batch": lambda h: F.batch_norm(h, None, None, training=True),
    "instance norm": lambda h: F.instance_norm(h[None]),
    "rms norm": lambda h: F.rms_norm(h, (6,)),
    "normalise": lambda h: F.normalize(h, dim=1),
    "norm": lambda h: h.norm(dim=1),
    "variance": lambda h: h.var(1),
    "product": lambda h: h.prod(1),
    "cumulative product": lambda h: h.cumprod(1),
    "glu": lambda h: F.glu(h, 1),
    "attention": lambda h: F.scaled_dot_product_attention(h[None], h[None], h[None]),
    "complex modulus": lambda h: torch.complex(h, h.flip(1) + 1).abs(),
    "modulus after a cast": lambda h: (h.to(torch.complex128) * (1 + 2j) + 3j).abs(),
    "fourier modulus": lambda h: torch.fft.rfft(h).abs(),
    "sampling positions": lambda h: F.grid_sample(
        randn(1, 1, 9, 9), 0.1 * h[:2, :2].reshape(1, 2, 1, 2), align_corners=False
    ),
    "cdist": lambda h: torch.cdist(h, randn(3, 6)),
    "lerp by itself": lambda h: torch.lerp(h, h.flip(1), h),
    "determinant": lambda h: torch.linalg.det(h[:, :4]),
    "weight norm": lambda h: weight_norm(h, randn(4, 1), 0),
    "written into a view": lambda h: _written(h),
    "embedding scaled by counts": lambda h: F.embedding(
        torch.tensor([[0, 1], [1, 2]]), h, scale_grad_by_freq=True
    ),
}


def _written(h: Tensor) -> Tensor:
    made = h.clone()
    made[:, 0] *= h[:, 1]
    return made


def on_one_parameter(operation: Callable[[Tensor], Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    parameter = randn(24, seed=3).requires_grad_(True)
    hidden = (randn(24, 24, seed=4) @ parameter).reshape(4, 6)
    return operation(hidden).double(), {"p": parameter}


@pytest.mark.parametrize("name", PIECEWISE)
def test_piecewise_linear_operations_are_exact(name: str) -> None:
    outputs, parameters = on_one_parameter(PIECEWISE[name])
    assert assert_never_wrong(outputs, parameters) == {}


@pytest.mark.parametrize("name", CURVED)
def test_other_operations_are_not(name: str) -> None:
    outputs, parameters = on_one_parameter(CURVED[name])
    assert "p" in curved_parameters(outputs, outputs.sum(), parameters)


@pytest.mark.parametrize("name", sorted(set(CURVED) - {"embedding scaled by counts", "cdist"}))
def test_their_hessian_indeed_differs(name: str) -> None:
    """So that the list above is not merely what the rules happen to say."""
    outputs, parameters = on_one_parameter(CURVED[name])
    hessian, gauss_newton = diagonal_traces(outputs, parameters)["p"]
    assert abs(hessian - gauss_newton) > 1e-6 * abs(gauss_newton)


# -- where parameters enter --------------------------------------------------------------------------------------------


def test_each_factor_of_a_product_is_linear() -> None:
    a, b, x = randn(6, 3).requires_grad_(True), randn(6, 3, seed=1).requires_grad_(True), randn(4, 6, seed=2)
    assert assert_never_wrong((x @ a) * (x @ b), {"a": a, "b": b}) == {}


def test_a_shared_stem_of_a_product_is_curved() -> None:
    stem, a = randn(6, 6).requires_grad_(True), randn(6, 3, seed=1).requires_grad_(True)
    hidden = F.relu(randn(4, 6, seed=2) @ stem)
    curved = assert_never_wrong((hidden @ a) * hidden[:, :3], {"stem": stem, "a": a})
    assert curved == {"stem": "Mul"}


def test_a_weight_used_in_parallel_is_linear_and_in_series_is_curved() -> None:
    weight, x = randn(6, 6).requires_grad_(True), randn(4, 6, seed=2)
    assert assert_never_wrong(F.relu(x @ weight) + x @ weight.T, {"w": weight}) == {}
    assert assert_never_wrong(F.relu(x @ weight) @ weight, {"w": weight}) == {"w": "Mm"}


def test_normalisation_bends_what_is_below_and_not_its_own_weights() -> None:
    weight = randn(6, 6).requires_grad_(True)
    scale, shift = randn(6, seed=1).requires_grad_(True), randn(6, seed=2).requires_grad_(True)
    parameters = {"weight": weight, "scale": scale, "shift": shift}
    hidden = randn(4, 6, seed=3) @ weight
    assert assert_never_wrong(F.layer_norm(hidden, (6,), scale, shift), parameters) == {
        "weight": "NativeLayerNorm"
    }
    statistics = (randn(6), randn(6).exp())
    assert assert_never_wrong(F.batch_norm(hidden, *statistics, scale, shift), parameters) == {}
    trained = F.batch_norm(hidden, *statistics, scale, shift, training=True)
    assert assert_never_wrong(trained, parameters) == {"weight": "NativeBatchNorm"}


def test_attention_bends_queries_and_keys_only() -> None:
    q, k, v = (randn(6, 6, seed=seed).requires_grad_(True) for seed in range(3))
    x = randn(2, 4, 6, seed=5)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        outputs = F.scaled_dot_product_attention(x @ q, x @ k, x @ v)
    assert set(assert_never_wrong(outputs, {"q": q, "k": k, "v": v})) == {"q", "k"}


def test_a_denominator_is_curved() -> None:
    a, b = randn(6).requires_grad_(True), randn(6, seed=1).requires_grad_(True)
    assert assert_never_wrong(a / (3 + b), {"a": a, "b": b}) == {"b": "Div"}


def test_weight_norm_is_linear_in_the_length() -> None:
    v, g = randn(3, 6).requires_grad_(True), randn(3, 1, seed=1).requires_grad_(True)
    outputs = randn(4, 6, seed=2) @ weight_norm(v, g, 0).T
    assert set(assert_never_wrong(outputs, {"v": v, "g": g})) == {"v"}


def test_embeddings_are_linear() -> None:
    table = randn(5, 3).requires_grad_(True)
    tokens = torch.tensor([[0, 1, 1], [4, 0, 2]])
    assert assert_never_wrong(F.relu(F.embedding(tokens, table)), {"t": table}) == {}
    assert set(assert_never_wrong(F.embedding(tokens, table) @ table.T, {"t": table})) == {"t"}


@pytest.mark.parametrize(
    "network",
    [
        lambda table: F.embedding_bag(torch.tensor([[0, 1, 1], [4, 0, 2]]), table),
        lambda table: F.embedding_bag(torch.tensor([[0, 1, 1], [4, 0, 2]]), table, mode="max"),
        lambda table: F.hardsigmoid(randn(4, 5) @ table),
    ],
    ids=["embedding bag", "embedding bag, max", "hardsigmoid"],
)
def test_operations_without_second_derivative_by_second_differences(
    network: Callable[[Tensor], Tensor],
) -> None:
    table = randn(5, 3).requires_grad_(True)
    outputs = network(table)
    assert curved_parameters(outputs, outputs.sum(), {"t": table}) == {}
    for position in range(table.numel()):
        step = torch.zeros(15).double().index_fill(0, torch.tensor(position), 1e-4).reshape(5, 3)
        second = network(table + step) - 2 * outputs + network(table - step)
        assert float(second.detach().abs().max()) < 1e-12


def test_custom_functions_are_never_trusted_even_by_name() -> None:
    class Relu(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x**2

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
            return 2 * ctx.saved_tensors[0] * gradient

    weight = randn(6, 3).requires_grad_(True)
    outputs: Any = Relu.apply(randn(4, 6, seed=1) @ weight)
    assert assert_never_wrong(outputs, {"w": weight}) == {"w": "Relu"}


def test_a_loss_that_looks_at_a_parameter_itself_is_noticed() -> None:
    used, aside, idle = (randn(3, seed=seed).requires_grad_(True) for seed in range(3))
    outputs = randn(4, 3, seed=5) * used
    losses = outputs.square().sum(1) + aside.exp().sum()
    curved = curved_parameters(outputs, losses, {"used": used, "aside": aside, "idle": idle})
    assert curved == {"aside": "the loss itself"}


def test_inputs_that_require_a_gradient_are_no_parameters() -> None:
    x = randn(4, 6).requires_grad_(True)
    weight = randn(6, 3, seed=1).requires_grad_(True)
    assert assert_never_wrong(torch.tanh(x) @ weight, {"w": weight}) == {}


def test_ten_thousand_nodes_deep() -> None:
    weight = randn(3).requires_grad_(True)
    hidden = weight * 1.0
    for _ in range(10_000):
        hidden = hidden + 1e-4
    assert curved_parameters(hidden, hidden.sum(), {"w": weight}) == {}


# -- random architectures ----------------------------------------------------------------------------------------------

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
def test_random_architectures_are_never_called_exact_wrongly(steps: list[tuple[str, Any]], seed: int) -> None:
    parameters = make_parameters(seed)
    outputs = run(steps, parameters, randn(3, WIDTH, seed=50 + seed))
    if outputs.requires_grad:
        assert_never_wrong(outputs, parameters)


PLAIN = {"linear", "transposed", "bias", "act", "add", "maximum", "select", "conv", "cat"}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(steps=st.lists(STEPS, min_size=1, max_size=7), seed=st.integers(0, 5))
def test_piecewise_linear_networks_are_always_called_exact(steps: list[tuple[str, Any]], seed: int) -> None:
    """A rule that never says exact would pass the test above."""
    parameters = make_parameters(seed)
    used: set[int] = set()
    kept: list[tuple[str, Any]] = []
    for kind, choice in steps:
        if kind not in PLAIN or choice in ("tanh", "gelu", "softplus", "square"):
            continue
        if kind in ("linear", "transposed", "bias", "conv"):  # each parameter in one place only
            token = hash((("w" if kind in ("linear", "transposed") else kind), choice))
            if token in used or kind == "transposed":
                continue
            used.add(token)
        kept.append((kind, choice))
    outputs = run(kept, parameters, randn(3, WIDTH, seed=50 + seed))
    assert curved_parameters(outputs, outputs.sum(), parameters) == {}


@pytest.mark.parametrize("inplace", [False, True])
def test_a_residual_network_with_batch_norm_is_exact(inplace: bool) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)
            self.norms = nn.ModuleList([nn.BatchNorm2d(2), nn.BatchNorm2d(2)])
            self.act = nn.ReLU(inplace=inplace)

        def forward(self, x: Tensor) -> Tensor:
            h = self.act(self.norms[0](self.first(x)))
            h = self.norms[1](self.second(h))
            h += x
            return self.act(h)

    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), Block(), nn.MaxPool2d(2), Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    model = model.double().eval()
    parameters = dict(model.named_parameters())
    outputs = model(randn(2, 1, 8, 8))
    assert assert_never_wrong(outputs, parameters) == {}
