"""Products with the tangent kernel against the formed one."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone import Specimen
from torchstone.errors import SpecimenError
from torchstone.linalg import top_eigenpairs
from torchstone.objectives import Classification, Regression
from torchstone.operators import NTKMap, ntk


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Twice(torch.autograd.Function):
    """2 x, whose backward formula cannot be differentiated."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(_ctx: Any, *grads: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return 2 * grads[0]


class Stubborn(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        found = Twice.apply(x)
        assert isinstance(found, Tensor)
        return found


def specimen(*middle: nn.Module, recurrent: bool = False) -> Specimen:
    class Last(nn.Module):
        def forward(self, pair: tuple[Tensor, Tensor]) -> Tensor:
            return pair[0][:, -1]

    first = [nn.LSTM(3, 6, batch_first=True), Last()] if recurrent else [nn.Linear(3, 6)]
    model = nn.Sequential(*first, *middle, nn.Linear(6, 2)).double()
    for position, parameter in enumerate(model.parameters()):
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator(position), dtype=torch.float64))
    shape = (7, 4, 3) if recurrent else (7, 3)
    x = torch.randn(shape, generator=generator(20), dtype=torch.float64)
    return Specimen(model, Classification(), (x, torch.zeros(7, dtype=torch.long)), batch_size=3)


@pytest.mark.parametrize("recurrent", [False, True])
def test_products_are_those_of_the_formed_kernel(recurrent: bool) -> None:
    one = specimen(nn.Tanh(), recurrent=recurrent)
    dense, products = ntk(one).matrix, NTKMap(one)
    assert products.shape == (14, 14)
    torch.testing.assert_close(products.to_dense(5), dense, rtol=1e-10, atol=1e-10 * float(dense.abs().max()))
    assert products.how == "double backward"
    top = top_eigenpairs(products, 3, generator=generator(1), tolerance=1e-9)
    torch.testing.assert_close(top.values, torch.linalg.eigvalsh(dense).flip(0)[:3], rtol=1e-8, atol=0)


def test_some_parameters_only() -> None:
    one = specimen(nn.Tanh())
    dense = ntk(one, names=["0.weight", "2.bias"]).matrix
    torch.testing.assert_close(
        NTKMap(one, names=["0.weight", "2.bias"]).to_dense(), dense, rtol=1e-10, atol=1e-10
    )


def test_networks_that_cannot_be_differentiated_twice() -> None:
    one = specimen(Stubborn())
    products = NTKMap(one)
    dense = ntk(one).matrix
    found = products.to_dense()
    assert "central differences" in products.how
    assert float((found - dense).norm() / dense.norm()) < 1e-7
    assert math.isfinite(float(found.sum()))


def test_outputs_that_differ_in_number_are_refused() -> None:
    pieces = [(torch.zeros(2, 1, 5), torch.zeros(2, 3)), (torch.zeros(2, 1, 6), torch.zeros(2, 4))]
    with pytest.raises(SpecimenError, match="the same number of outputs of every example; got 3, 4"):
        NTKMap(Specimen(nn.Conv1d(1, 1, 3), Regression(), pieces))
