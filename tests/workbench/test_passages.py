"""Points that the whole signal passes, and Jacobians between them against dense automatic differentiation."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from torchstone.errors import SettingError
from torchstone.objectives import Classification, Regression
from torchstone.specimen import Specimen
from torchstone.testing.zoo import zoo
from torchstone.workbench.passages import OUTPUT, PassageJacobian, _Paths, passages

ZOO = {case.name: case for case in zoo(hugging_face=False)}


def drawn(model: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter.shape[-1] ** 0.5)
    return model.double()


def specimen(model: nn.Module, width: int = 6, count: int = 5) -> Specimen:
    x = torch.randn(count, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return Specimen(model, Classification(), (x, x.argmax(1) % 3)).prepared()


class Blocks(nn.Module):
    """Two residual blocks written as a function, one of them in place, and a head."""

    def __init__(self, in_place: bool = False) -> None:
        super().__init__()
        self.first, self.inner, self.second, self.head = (nn.Linear(6, 6) for _ in range(4))
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.inner(torch.relu(self.first(x)))
        branch = torch.tanh(self.second(x))
        if self.in_place:
            x += branch
        else:
            x = x + branch
        return self.head(x)


def test_inside_of_a_branch_is_no_passage() -> None:
    assert passages(specimen(drawn(Blocks()))) == ["model", "second", "head", OUTPUT]


def test_what_is_overwritten_later_is_no_passage() -> None:
    assert passages(specimen(drawn(Blocks(in_place=True)))) == ["model", "head", OUTPUT]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("reused_submodule", ["model", "layer#2", "layer#3", "head", OUTPUT]),
        ("batch_norm_in_train_mode", ["model", "4", OUTPUT]),
        ("language_model", ["gru", "head", OUTPUT]),
        ("frozen_parameters", ["model", "2", OUTPUT]),
        ("no_parameters", []),
        ("single_parameter", []),
    ],
)
def test_passages_of_the_zoo(name: str, expected: list[str]) -> None:
    assert passages(ZOO[name].specimen().prepared()) == expected


def test_jacobians_from_one_to_the_next_multiply_to_the_whole_one() -> None:
    one = specimen(drawn(Blocks()))
    names = passages(one)
    product = torch.eye(6, dtype=torch.float64)
    for source, target in pairwise(names):
        product = PassageJacobian(one, source, target, "train", 3).to_dense() @ product
    x = next(one.batches())[0][3]
    exact = torch.autograd.functional.jacobian(lambda x: one.model(x[None])[0], x)
    assert torch.allclose(product, exact, atol=1e-12)  # pyright: ignore[reportArgumentType]
    whole = PassageJacobian(one, names[0], OUTPUT, "train", 3)
    assert torch.allclose(whole.to_dense(), exact, atol=1e-12)  # pyright: ignore[reportArgumentType]
    assert torch.allclose(whole.T.to_dense().T, exact, atol=1e-12)  # pyright: ignore[reportArgumentType]


def test_the_model_and_its_data_stay_as_they_are() -> None:
    one = specimen(drawn(nn.Sequential(nn.Linear(6, 4), nn.ReLU(inplace=True), nn.Linear(4, 3))))
    x = one.split("train").first()[0]
    before = x.clone()
    PassageJacobian(one, "model", "2", "train", 0).to_dense()
    assert torch.equal(x, before)
    assert not x.requires_grad
    assert all(parameter.grad is None for parameter in one.model.parameters())


def test_paths_are_counted_exactly_where_they_are_as_many_as_two_to_the_hundred() -> None:
    x = torch.ones(1, requires_grad=True)
    y = x
    for _ in range(100):
        y = torch.sin(y) + torch.cos(y)
    z = torch.exp(y)
    beside = torch.tanh(y)
    paths = _Paths(z + beside, x)
    assert paths.total == 2**101
    assert paths.passed_by_all(y)
    assert not paths.passed_by_all(z)
    assert not paths.passed_by_all(beside)


def test_one_of_several_outputs_of_an_operation_is_not_passed_by_all() -> None:
    x = torch.ones(2, 4, requires_grad=True)
    whole = torch.sin(x)
    first, second = whole.chunk(2, dim=1)
    paths = _Paths((first * second).sum(), x)
    assert not paths.passed_by_all(first)
    assert paths.passed_by_all(whole)
    assert _Paths((first + 1).sum(), x).passed_by_all(first)


def test_an_operation_without_second_derivative_is_named_where_j_v_is_asked_for() -> None:
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):  # noqa: ARG004
            return x * 2

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, grad):  # noqa: ARG004  # pyright: ignore[reportIncompatibleMethodOverride]
            return grad * 2

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return Once.apply(self.layer(x))

    x = torch.ones(4, 6, dtype=torch.float64)
    one = Specimen(drawn(Net()), Regression(), (x, torch.zeros(4, 3, dtype=torch.float64))).prepared()
    jacobian = PassageJacobian(one, "model", OUTPUT, "train", 0)
    assert torch.allclose(jacobian.T.to_dense().T, 2 * one.trainable["layer.weight"])
    with pytest.raises(SettingError, match="differentiated twice"):
        jacobian.to_dense()
