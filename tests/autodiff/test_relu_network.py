"""Closed-form derivatives of ReLU networks, the affine map around a point, and kinks."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from torchstone.autodiff import (
    backpropagation,
    chain_of,
    jacobian_product,
    kinks,
    local_affine_map,
    weight_column_derivative,
)
from torchstone.autodiff.operation import SquaredLoss
from torchstone.errors import SettingError

SIZES = (4, 7, 5, 6, 3)


def weights(seed: int = 0, sizes: tuple[int, ...] = SIZES) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    pairs = itertools.pairwise(sizes)
    return [torch.randn(after, before, generator=g, dtype=torch.float64) for before, after in pairs]


def point(size: int = SIZES[0]) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def network(matrices: list[Tensor], x: Tensor) -> Tensor:
    for matrix in matrices[:-1]:
        x = torch.relu(matrix @ x)
    return matrices[-1] @ x


def test_the_jacobian_is_the_product_of_weights_and_masks() -> None:
    found = jacobian_product(weights(), point())
    expected = torch.func.jacrev(lambda x: network(weights(), x))(point())
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("layer", range(1, len(SIZES)))
def test_the_derivative_in_a_column_is_b_times_the_unit(layer: int) -> None:
    matrices, x = weights(), point()

    def of_weight(matrix: Tensor) -> Tensor:
        return network([*matrices[: layer - 1], matrix, *matrices[layer:]], x)

    whole = torch.func.jacrev(of_weight)(matrices[layer - 1])
    for column in range(SIZES[layer - 1]):
        found = weight_column_derivative(matrices, x, layer, column)
        torch.testing.assert_close(found, whole[:, :, column], rtol=1e-10, atol=1e-10)


def test_the_squared_loss_scales_by_the_residual() -> None:
    matrices, x = weights(sizes=(4, 6, 1)), point()
    y = torch.tensor([0.7], dtype=torch.float64)
    steps = chain_of(matrices)
    without, with_loss = backpropagation(steps, x), backpropagation([*steps, SquaredLoss(y)], x)
    residual = without.output - y
    torch.testing.assert_close(with_loss.jacobian, residual * without.jacobian, rtol=1e-12, atol=0)


def test_layers_and_columns_that_are_not_there_are_refused() -> None:
    with pytest.raises(SettingError, match="layer 5, column 0"):
        weight_column_derivative(weights(), point(), 5, 0)
    with pytest.raises(SettingError, match="layer 1, column 4"):
        weight_column_derivative(weights(), point(), 1, 4)
    with pytest.raises(SettingError, match="Weights must chain"):
        chain_of([torch.ones(2, 3), torch.ones(4, 3)])


def test_the_affine_map_around_a_point_of_a_convolutional_network() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 4)
    )
    model.double().eval()
    x = torch.randn(1, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = local_affine_map(model, x)
    torch.testing.assert_close(found(x), model(x[None])[0], rtol=1e-12, atol=1e-12)
    near = x + 1e-7 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(found(near), model(near[None])[0], rtol=1e-12, atol=1e-12)
    far = -5 * x
    assert not torch.allclose(found(far), model(far[None])[0], rtol=1e-3)


def test_a_curved_network_has_none() -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    with pytest.raises(SettingError, match="must be linear around x"):
        local_affine_map(model, torch.ones(3, dtype=torch.float64))


def test_kinks_are_reported_with_their_number() -> None:
    x = torch.tensor([-1.0, 0.0, 0.0, 2.0, 6.0])
    assert [(k.operation, k.hits, k.size) for k in kinks(functional.relu, x)] == [("relu", 2, 5)]
    assert [k.hits for k in kinks(functional.relu6, x)] == [3]
    assert [k.hits for k in kinks(functional.hardtanh, x)] == [1]
    assert [k.hits for k in kinks(torch.abs, x)] == [2]
    assert not kinks(torch.tanh, x)
    assert not kinks(torch.relu, x + 0.5)


def test_kinks_of_a_network_that_overwrites_its_inputs() -> None:
    model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(inplace=True), nn.Linear(3, 2), nn.ReLU())
    nn.init.zeros_(next(model.parameters()))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert [(k.hits, k.size) for k in kinks(model, torch.ones(4, 2))] == [(12, 12)]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_automatic_differentiation_can_be_wrong_at_a_kink() -> None:
    t = torch.zeros((), requires_grad=True)
    identity = torch.relu(t) - torch.relu(-t)
    (slope,) = torch.autograd.grad(identity, t)
    assert float(slope) == 0.0  # and 1 is right
    assert len(kinks(lambda t: torch.relu(t) - torch.relu(-t), t)) == 2
