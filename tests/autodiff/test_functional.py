"""Pure functions of modules, per-example gradients, duality of products, costs and sensitivities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torchstone.autodiff import (
    forward_mode_gradient,
    gradient_cost,
    input_sensitivity,
    jacobian_products,
    per_example_gradients,
    pure_function,
    remainder_order,
)
from torchstone.errors import SettingError


def network(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(48, 4)).to(
        dtype
    )


def images(count: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(count, 1, 6, 6, generator=g, dtype=dtype)
    return x, torch.randint(4, (count,), generator=g)


def losses(outputs: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs, labels, reduction="none")


def test_a_module_as_a_pure_function() -> None:
    model = network().eval()
    x, _ = images(5)
    f = pure_function(model)
    assert torch.equal(f(f.parameters, x), model(x))
    other = {name: value + 1 for name, value in f.parameters.items()}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert not torch.allclose(f(other, x), model(x))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_module_that_changes_itself_is_refused() -> None:
    with pytest.raises(SettingError, match=r"may not change the module; got running statistics in 1"):
        pure_function(network().train())

    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls = self.calls + 1
            return x

    f = pure_function(Counts())
    with pytest.raises(SettingError, match="calls"):
        f(f.parameters, torch.ones(1))


def test_per_example_gradients_are_those_of_a_loop() -> None:
    model = network(torch.float32).eval()
    x, y = images(6, torch.float32)
    found = per_example_gradients(model, losses, x, y)
    for i in range(6):
        expected = torch.autograd.grad(
            losses(model(x[i : i + 1]), y[i : i + 1]).sum(), list(model.parameters())
        )
        for (name, gradients), one in zip(found.items(), expected, strict=True):
            torch.testing.assert_close(gradients[i], one, rtol=1e-5, atol=1e-7, msg=name)


def test_products_with_the_jacobian_and_its_transpose_are_dual() -> None:
    model = network().eval()
    x, _ = images(3)
    g = torch.Generator().manual_seed(1)
    v = torch.randn(x.shape, generator=g, dtype=x.dtype)
    u = torch.randn(3, 4, generator=g, dtype=x.dtype)
    pushed, pulled = jacobian_products(model, x, v, u)
    torch.testing.assert_close((u * pushed).sum(), (pulled * v).sum(), rtol=1e-10, atol=0)


def mlp(depth: int, width: int = 32) -> nn.Sequential:
    return nn.Sequential(*(layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.ReLU())))


MODELS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear": (nn.Linear(20, 3), (8, 20)),
    "mlp of depth 2": (mlp(2), (8, 32)),
    "mlp of depth 8": (mlp(8), (8, 32)),
    "wide": (nn.Sequential(nn.Linear(10, 500), nn.Tanh(), nn.Linear(500, 1)), (4, 10)),
    "convolution": (nn.Conv2d(3, 8, 3), (2, 3, 9, 9)),
    "strided": (nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 4, 3)), (2, 3, 17, 17)),
    "dilated": (nn.Conv1d(8, 8, 5, dilation=2), (2, 8, 30)),
    "transposed": (nn.ConvTranspose2d(4, 3, 3), (2, 4, 6, 6)),
    "attention": (nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0), (2, 7, 16)),
    "bilinear": (nn.Sequential(nn.Flatten(), nn.Linear(30, 30), nn.Linear(30, 2)), (3, 5, 6)),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_gradient_costs_at_most_five_functions(name: str) -> None:
    model, shape = MODELS[name]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), requires_grad=True)
    call = model
    if name == "attention":  # its fused forward pass is not counted
        call = lambda x: model(x)
        torch.backends.mha.set_fastpath_enabled(False)
    try:
        cost = gradient_cost(call, x)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    assert 1 < cost.ratio <= 5
    assert x.grad is None
    if name == "linear":
        assert cost.function == 2 * 8 * 20 * 3
        assert cost.ratio == 3


def test_the_cost_is_linear_in_the_depth() -> None:
    depths = np.array([2, 4, 8, 16, 32])
    x = torch.ones(4, 32)
    counted = np.array([gradient_cost(mlp(int(depth)), x).gradient for depth in depths])
    assert np.corrcoef(depths, counted)[0, 1] ** 2 > 0.999


def test_costs_of_nothing_are_refused() -> None:
    with pytest.raises(SettingError, match="must require a gradient"):
        gradient_cost(lambda x: x @ x, torch.ones(3, 3))
    with pytest.raises(SettingError, match="matrix product"):
        gradient_cost(torch.tanh, torch.ones(3, requires_grad=True))


def test_forward_mode_needs_a_sweep_an_input() -> None:
    A = torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    function = lambda x: torch.tanh(A @ x).sum()
    x = torch.ones(6, dtype=torch.float64)
    gradient, sweeps = forward_mode_gradient(function, x)
    assert sweeps == 6
    torch.testing.assert_close(gradient, torch.func.grad(function)(x))


def test_input_sensitivity_of_a_linear_network_is_its_weight() -> None:
    model = nn.Linear(4, 3).double()
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = input_sensitivity(model, x)
    torch.testing.assert_close(found.norms, model.weight.detach().norm().expand(5))
    best = model(x).argmax(1)
    torch.testing.assert_close(found.saliency, model.weight.detach()[best].abs())
    assert not x.requires_grad
    with pytest.raises(SettingError, match=r"must give \(N, C\)"):
        input_sensitivity(nn.Flatten(0), x)


def test_the_remainder_of_a_gradient_has_order_two_and_of_a_wrong_one_order_one() -> None:
    g = torch.Generator().manual_seed(0)
    A = torch.randn(5, 5, generator=g, dtype=torch.float64)
    loss = lambda w: torch.sin(A @ w).square().sum()
    w, d = (torch.randn(5, generator=g, dtype=torch.float64) for _ in range(2))
    gradient = torch.func.grad(loss)(w)
    steps = tuple(10 ** (-2 - k / 4) for k in range(13))
    assert remainder_order(loss, w, d, gradient, steps).slope == pytest.approx(2, abs=0.05)
    assert remainder_order(loss, w, d, 2 * gradient, steps).slope == pytest.approx(1, abs=0.05)
    with pytest.raises(SettingError, match="two steps or more"):
        remainder_order(loss, w, d, gradient, (1e-3,))
    zeros = torch.zeros(5, dtype=torch.float64)
    with pytest.raises(SettingError, match="each with a remainder"):
        remainder_order(lambda w: w.sum() * 0, w, d, zeros)
