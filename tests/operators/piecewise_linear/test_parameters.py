"""Where parameters enter a network: alone, below a bend, several times, or in the loss itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchstone.operators import curved_parameters

Never = Callable[[Tensor, Mapping[str, Tensor]], dict[str, str]]
weight_norm: Any = vars(torch)["_weight_norm"]  # what torch.nn.utils.parametrizations.weight_norm calls


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_each_factor_of_a_product_is_linear(assert_never_wrong: Never) -> None:
    a, b, x = randn(6, 3).requires_grad_(True), randn(6, 3, seed=1).requires_grad_(True), randn(4, 6, seed=2)
    assert assert_never_wrong((x @ a) * (x @ b), {"a": a, "b": b}) == {}


def test_a_shared_stem_of_a_product_is_curved(assert_never_wrong: Never) -> None:
    stem, a = randn(6, 6).requires_grad_(True), randn(6, 3, seed=1).requires_grad_(True)
    hidden = F.relu(randn(4, 6, seed=2) @ stem)
    curved = assert_never_wrong((hidden @ a) * hidden[:, :3], {"stem": stem, "a": a})
    assert curved == {"stem": "Mul"}


def test_a_weight_used_in_parallel_is_linear_and_in_series_is_curved(assert_never_wrong: Never) -> None:
    weight, x = randn(6, 6).requires_grad_(True), randn(4, 6, seed=2)
    assert assert_never_wrong(F.relu(x @ weight) + x @ weight.T, {"w": weight}) == {}
    assert assert_never_wrong(F.relu(x @ weight) @ weight, {"w": weight}) == {"w": "Mm"}


def test_normalisation_bends_what_is_below_and_not_its_own_weights(assert_never_wrong: Never) -> None:
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


def test_attention_bends_queries_and_keys_only(assert_never_wrong: Never) -> None:
    q, k, v = (randn(6, 6, seed=seed).requires_grad_(True) for seed in range(3))
    x = randn(2, 4, 6, seed=5)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        outputs = F.scaled_dot_product_attention(x @ q, x @ k, x @ v)
    assert set(assert_never_wrong(outputs, {"q": q, "k": k, "v": v})) == {"q", "k"}


def test_a_denominator_is_curved(assert_never_wrong: Never) -> None:
    a, b = randn(6).requires_grad_(True), randn(6, seed=1).requires_grad_(True)
    assert assert_never_wrong(a / (3 + b), {"a": a, "b": b}) == {"b": "Div"}


def test_weight_norm_is_linear_in_the_length(assert_never_wrong: Never) -> None:
    v, g = randn(3, 6).requires_grad_(True), randn(3, 1, seed=1).requires_grad_(True)
    outputs = randn(4, 6, seed=2) @ weight_norm(v, g, 0).T
    assert set(assert_never_wrong(outputs, {"v": v, "g": g})) == {"v"}


def test_embeddings_are_linear(assert_never_wrong: Never) -> None:
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


def test_custom_functions_are_never_trusted_even_by_name(assert_never_wrong: Never) -> None:
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


def test_inputs_that_require_a_gradient_are_no_parameters(assert_never_wrong: Never) -> None:
    x = randn(4, 6).requires_grad_(True)
    weight = randn(6, 3, seed=1).requires_grad_(True)
    assert assert_never_wrong(torch.tanh(x) @ weight, {"w": weight}) == {}


def test_ten_thousand_nodes_deep() -> None:
    weight = randn(3).requires_grad_(True)
    hidden = weight * 1.0
    for _ in range(10_000):
        hidden = hidden + 1e-4
    assert curved_parameters(hidden, hidden.sum(), {"w": weight}) == {}


@pytest.mark.parametrize("inplace", [False, True])
def test_a_residual_network_with_batch_norm_is_exact(inplace: bool, assert_never_wrong: Never) -> None:
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
