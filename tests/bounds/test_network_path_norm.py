"""The forward pass against enumeration by matrices; invariances; what has no path norm."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from torchstone.bounds.margin import path_norm, product_norm
from torchstone.bounds.network_path_norm import network_path_norm
from torchstone.errors import NumericalError, SettingError


def drawn(model: nn.Sequential, seed: int = 0) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.running_var is not None:
                module.running_var.abs_().add_(0.1)
    return model


def dense() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 5), nn.LeakyReLU(), nn.Linear(5, 3)
    ).double()


@pytest.mark.parametrize("order", [1.0, 2.0, 3.0])
def test_dense_networks_with_biases(order: float) -> None:
    model = drawn(dense())
    layers = [m for m in model if isinstance(m, nn.Linear)]
    expected = path_norm([m.weight for m in layers], [m.bias for m in layers], order)
    assert network_path_norm(model, torch.zeros(1, 4), order) == pytest.approx(expected, rel=1e-12)


def matrix_of(module: nn.Module, shape: tuple[int, ...]) -> Tensor:
    size = math.prod(shape)
    with torch.no_grad():
        return module(torch.eye(size, dtype=torch.float64).view(size, *shape)).flatten(1).T


def test_convolutions_are_their_matrices() -> None:
    first = nn.Conv2d(2, 3, 3, padding=1, stride=2, bias=False).double()
    second = nn.Conv2d(3, 4, 2, groups=1, bias=False).double()
    model = drawn(nn.Sequential(first, nn.ReLU(), second, nn.Flatten()))
    matrices = [matrix_of(first, (2, 5, 5)), matrix_of(second, (3, 3, 3))]
    for order in (1.0, 2.0):
        expected = path_norm(matrices, order=order)
        assert network_path_norm(model, torch.zeros(1, 2, 5, 5), order) == pytest.approx(expected, rel=1e-12)


def test_batch_normalisation_is_folded() -> None:
    model = drawn(nn.Sequential(nn.Linear(3, 6, bias=False), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2)))
    first, norm, last = model[0], model[1], model[3]
    assert isinstance(first, nn.Linear)
    assert isinstance(norm, nn.BatchNorm1d)
    assert isinstance(last, nn.Linear)
    assert norm.running_var is not None
    assert norm.running_mean is not None
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    weights = [first.weight.double() * scale[:, None], last.weight]
    biases = [norm.bias.double() - norm.running_mean.double() * scale, last.bias]
    found = network_path_norm(model, torch.zeros(1, 3))
    assert found == pytest.approx(path_norm(weights, biases, 1.0), rel=1e-6)


def test_a_skip_connection_adds_its_paths() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 3, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return x + torch.relu(self.inner(x))

    model = drawn(nn.Sequential(Residual(), nn.Linear(3, 2, bias=False))).double()
    inner, head = model[0], model[1]
    assert isinstance(inner, Residual)
    assert isinstance(head, nn.Linear)
    whole = torch.eye(3, dtype=torch.float64) + inner.inner.weight.detach().abs()
    expected = float((head.weight.detach().abs() @ whole).sum())
    assert network_path_norm(model, torch.zeros(1, 3)) == pytest.approx(expected, rel=1e-12)


def test_rescaling_by_100_keeps_function_and_path_norm_but_not_the_euclidean_norm() -> None:
    model = drawn(dense())
    twin = copy.deepcopy(model)
    c = 100.0
    first, second = twin[0], twin[2]
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    with torch.no_grad():
        first.weight.mul_(c)
        first.bias.mul_(c)
        second.weight.div_(c)
    x = torch.randn(40, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    with torch.no_grad():
        assert float((model(x) - twin(x)).abs().max()) < 1e-10
    euclidean = lambda m: math.sqrt(sum(float(p.detach().square().sum()) for p in m.parameters()))
    assert euclidean(twin) > 10 * euclidean(model)
    for order in (1.0, 2.0):
        norms = [network_path_norm(m, torch.zeros(1, 4), order) for m in (model, twin)]
        assert abs(norms[1] / norms[0] - 1) < 1e-10
    products = [product_norm([m.weight for m in net if isinstance(m, nn.Linear)]) for net in (model, twin)]
    assert abs(products[1] / products[0] - 1) < 1e-10


def test_a_maximum_takes_the_largest_sum_of_paths() -> None:
    model = nn.Sequential(nn.Unflatten(1, (1, 4)), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(2, 1, bias=False))
    head = model[3]
    assert isinstance(head, nn.Linear)
    with torch.no_grad():
        head.weight.fill_(-2.0)
    found = network_path_norm(model, torch.zeros(1, 4))
    assert found == 4.0
    assert 2 * found >= 8.0  # all four paths


def test_the_network_is_not_changed_and_overflow_is_infinite() -> None:
    model = drawn(dense()).float().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    network_path_norm(model, torch.zeros(1, 4))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.training
    assert next(model.parameters()).dtype == torch.float32
    huge = dense()
    with torch.no_grad():
        for parameter in huge.parameters():
            parameter.fill_(1e150)
    assert network_path_norm(huge, torch.zeros(1, 4)) == math.inf


def test_mistakes() -> None:
    example = torch.zeros(1, 4)
    with pytest.raises(SettingError, match="order"):
        network_path_norm(dense(), example, 0.0)
    with pytest.raises(SettingError, match="plain weights"):
        network_path_norm(parametrizations.weight_norm(nn.Linear(4, 2)), example)
    with pytest.raises(SettingError, match="piecewise linear"):
        network_path_norm(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), example)
    with pytest.raises(SettingError, match="piecewise linear"):
        network_path_norm(nn.BatchNorm1d(4, track_running_stats=False), example)
    broken = dense()
    with torch.no_grad():
        next(broken.parameters()).fill_(math.nan)
    with pytest.raises(NumericalError, match="finite weights"):
        network_path_norm(broken, example)

    class Named(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
            return {"scores": super().forward(x)}  # pyright: ignore[reportReturnType]

    with pytest.raises(SettingError, match="returns a tensor"):
        network_path_norm(Named(4, 2), example)
