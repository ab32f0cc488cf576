"""Layers read off the autograd graph: the constants between them, and networks that are no chain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchstone.errors import NotApplicableError
from torchstone.objectives import Classification
from torchstone.specimen import Specimen
from torchstone.workbench.chain import chain

Map = Callable[[Tensor], Tensor]


class Between(nn.Module):
    """A convolution, a fixed map, and a dense layer."""

    def __init__(self, middle: Map) -> None:
        super().__init__()
        self.middle, self.first, self.head = middle, nn.Conv2d(1, 2, 1), nn.LazyLinear(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(self.first(x)).flatten(1))


def images(count: int = 6) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, 1, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x, torch.arange(count) % 2


def specimen(model: nn.Module, train: Any = None) -> Specimen:
    model.double()(images()[0])  # lazy layers take shape
    return Specimen(model.eval(), Classification(), train or images())


@pytest.mark.filterwarnings("ignore:Lazy modules")
@pytest.mark.parametrize(
    "activation",
    [
        F.relu, torch.tanh, F.gelu, F.silu, F.elu, F.selu, lambda x: F.elu(x, 3.0), F.leaky_relu,
        lambda x: F.leaky_relu(x, -4.0), F.relu6, lambda x: F.hardtanh(x, -2, 5), lambda x: F.gelu(x, approximate="tanh"),
    ],
)  # fmt: skip
def test_activations_are_no_steeper_than_said(activation: Map) -> None:
    """The constant is the largest |derivative| on a fine grid, to a thousandth, never below it."""
    grid = torch.linspace(-8, 8, 400_001, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(activation(grid).sum(), grid)
    steepest = float(slope.abs().max())
    (constant, last) = (layer.lipschitz for layer in chain(specimen(Between(activation))))
    assert steepest <= constant <= max(1.0, 1.001 * steepest)
    assert last == 1


@pytest.mark.filterwarnings("ignore:Lazy modules")
@pytest.mark.parametrize(
    "pool",
    [
        lambda x: F.max_pool2d(x, 2), lambda x: F.max_pool2d(x, 3, 1), lambda x: F.max_pool2d(x, 3, 2, 1),
        lambda x: F.max_pool2d(x, 2, 2, dilation=2), lambda x: F.max_pool2d(x, 2, 1, dilation=3),
        lambda x: F.avg_pool2d(x, 2), lambda x: F.avg_pool2d(x, 3, 1), lambda x: F.avg_pool2d(x, 3, 1, 1),
        lambda x: x.mean((2, 3)), lambda x: F.adaptive_avg_pool2d(x, 1),
    ],
)  # fmt: skip
def test_pooling_stretches_no_more_than_said(pool: Map) -> None:
    """The largest singular value of its Jacobian, also where one pixel is the maximum of all its windows."""
    (constant, _) = (layer.lipschitz for layer in chain(specimen(Between(pool))))
    inputs = [
        torch.randn(1, 1, 6, 6, generator=torch.Generator().manual_seed(i), dtype=torch.float64)
        for i in range(9)
    ]
    spike = torch.zeros(1, 1, 6, 6, dtype=torch.float64)
    spike[0, 0, ::3, ::3] = 1
    for x in (*inputs, *[spike.roll((i, j), (2, 3)) for i in range(3) for j in range(3)]):
        jacobian = torch.autograd.functional.jacobian(pool, x)
        assert isinstance(jacobian, Tensor)
        assert float(torch.linalg.matrix_norm(jacobian.reshape(-1, 36), 2)) <= constant + 1e-9


@pytest.mark.filterwarnings("ignore:Lazy modules")
@pytest.mark.parametrize(
    ("middle", "words"),
    [
        (lambda x: torch.sigmoid(x), "SigmoidBackward0"),
        (lambda x: 2 * x, "MulBackward0"),
        (lambda x: x + torch.relu(x), "two paths meet in AddBackward0"),
        (lambda x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False), "AvgPool2DBackward0"),
        (lambda x: F.avg_pool2d(x, 3, divisor_override=1), "AvgPool2DBackward0"),
        (lambda x: F.avg_pool2d(x, 4, 4, ceil_mode=True), "AvgPool2DBackward0"),
        (lambda x: F.softmax(x, 1), "SoftmaxBackward0"),
        (lambda x: F.layer_norm(x, (6, 6)), "LayerNorm"),
        (lambda x: x.cumsum(1), "CumsumBackward0"),
    ],
)
def test_what_is_not_understood_is_named(middle: Map, words: str) -> None:
    with pytest.raises(NotApplicableError, match="not a chain") as error:
        chain(specimen(Between(middle)))
    assert words in error.value.reason


class Normalised(nn.Module):
    """Batch normalisation after a convolution, with an activation steeper than 1 after it."""

    def __init__(self, before: bool = False, affine: bool = True) -> None:
        super().__init__()
        self.conv, self.norm, self.head = (
            nn.Conv2d(1, 2, 1),
            nn.BatchNorm2d(2, affine=affine),
            nn.Linear(72, 2),
        )
        self.before = before

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv(x)
        hidden = self.norm(F.gelu(hidden)) if self.before else F.gelu(self.norm(hidden))
        return self.head(hidden.flatten(1))


def test_normalisation_is_folded_also_before_a_steep_activation() -> None:
    model = Normalised()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        model.norm.running_mean.copy_(torch.randn(2, generator=generator))  # pyright: ignore[reportOptionalMemberAccess]
        model.norm.running_var.copy_(torch.rand(2, generator=generator) + 0.5)  # pyright: ignore[reportOptionalMemberAccess]
        model.norm.weight.copy_(torch.randn(2, generator=generator))
    one = specimen(model)
    (first, head) = chain(one)
    assert first.lipschitz == pytest.approx(1.129)
    weight: Any = first.layer.weight
    hidden = F.gelu(F.conv2d(images()[0], weight, first.layer.bias)).flatten(1)
    expected = F.linear(hidden, head.layer.weight, head.layer.bias)
    with one.measuring(), torch.no_grad():
        assert torch.allclose(one.model(images()[0]), expected, atol=1e-10)


class Rescales(nn.Module):
    """Multiplies its input, which the norms of its layers do not show."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(36, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((255 * x).flatten(1))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Normalised(before=True), "does not directly follow a layer"),
        (Normalised(affine=False), "BatchNormBackward0"),
        (nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(36, 2)), "does not begin with a dense"),
        (nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(9, 2)), "does not begin with a dense"),
        (Rescales(), "MulBackward0"),
        (nn.Sequential(nn.Flatten(), nn.BatchNorm1d(36), nn.Linear(36, 2)), "does not begin with a dense"),
        (nn.Sequential(nn.Flatten(2), nn.Linear(6 * 6, 2), nn.Flatten(0, 1)), "inputs of 3 dimensions"),
        (nn.Flatten(), "does not begin with a dense"),
        (
            nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten(), nn.BatchNorm1d(72), nn.Linear(72, 2)),
            "does not directly follow a layer",
        ),
        (
            nn.Sequential(nn.Conv2d(1, 2, 1), nn.ConstantPad2d(1, 2.0), nn.Flatten(), nn.Linear(128, 2)),
            "pads with a value other than 0",
        ),
    ],
)  # fmt: skip
def test_other_obstacles_are_named(model: nn.Module, words: str) -> None:
    with pytest.raises(NotApplicableError) as error:
        chain(specimen(model))
    assert words in error.value.reason


def test_a_network_on_tokens_is_no_chain() -> None:
    model = nn.Sequential(nn.Embedding(5, 6), nn.Flatten(), nn.Linear(18, 2))
    one = Specimen(model, Classification(), (torch.arange(12).reshape(4, 3) % 5, torch.arange(4) % 2))
    with pytest.raises(NotApplicableError, match="EmbeddingBackward0"):
        chain(one)


def test_one_layer_used_twice_is_no_chain() -> None:
    layer = nn.Linear(36, 36)
    with pytest.raises(NotApplicableError, match="without a weight of its own"):
        chain(specimen(nn.Sequential(nn.Flatten(), layer, nn.ReLU(), layer)))


def test_frozen_layers_belong_to_the_chain_and_stay_frozen() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 4), nn.ReLU(), nn.Linear(4, 2))
    model[1].requires_grad_(False)
    one = specimen(model)
    assert [layer.name for layer in chain(one)] == ["1", "3"]
    assert list(one.trainable) == ["3.weight", "3.bias"]
    assert not next(model.parameters()).requires_grad
    assert not any(module._forward_hooks for module in model.modules())


def test_zero_padding_is_a_reshape() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ZeroPad2d(1), nn.Flatten(), nn.Linear(128, 2))
    assert [layer.lipschitz for layer in chain(specimen(model))] == [1.0, 1.0]


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize(
    "parametrisation",
    [
        torch.nn.utils.parametrizations.spectral_norm,
        torch.nn.utils.parametrizations.weight_norm,
        torch.nn.utils.parametrizations.orthogonal,
    ],
)
def test_parametrised_weights_are_those_that_the_network_uses(parametrisation: Any, frozen: bool) -> None:
    model = nn.Sequential(nn.Flatten(), parametrisation(nn.Linear(36, 5)), nn.ReLU(), nn.Linear(5, 2))
    model.requires_grad_(not frozen)
    one = specimen(model)
    first, second = (layer.layer for layer in chain(one))
    x = images()[0]
    with one.measuring(), torch.no_grad():
        hidden = torch.relu(F.linear(x.flatten(1), first.weight, first.bias))
        assert torch.allclose(F.linear(hidden, second.weight, second.bias), one.model(x), atol=1e-12)
    assert not first.weight.requires_grad


def test_initial_weights_are_folded_with_the_normalisation_of_the_start() -> None:
    """Running statistics come from the data; a reference may not."""
    model: Any = Normalised()
    start = {name: tensor.clone().double() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        model.norm.running_mean.fill_(3.0)
        model.norm.running_var.fill_(7.0)
        model.norm.weight.fill_(2.0)
        model.norm.bias.fill_(-1.0)
    one = specimen(model)
    expected = start["conv.weight"] / (1 + model.norm.eps) ** 0.5
    for state in (start, {name: tensor for name, tensor in start.items() if "running" not in name}):
        layer = chain(one, state)[0].layer
        assert torch.allclose(layer.weight, expected, atol=1e-12)
        assert layer.bias is not None
        assert torch.allclose(layer.bias, start["conv.bias"] / (1 + model.norm.eps) ** 0.5, atol=1e-12)
    assert not torch.allclose(chain(one)[0].layer.weight.double(), expected)


def test_an_initial_state_of_another_network_is_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    with pytest.raises(NotApplicableError, match="no weight for 1"):
        chain(specimen(model), {"other.weight": torch.zeros(2, 36)})
