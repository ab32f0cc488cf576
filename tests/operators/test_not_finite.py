"""NaN and infinity are said to be NaN and infinity, not coupled examples, odd layers or zeros."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone import Specimen
from torchstone.errors import NumericalError
from torchstone.objectives import Classification, Regression
from torchstone.operators import (
    Fisher,
    GaussNewton,
    GradientCovariance,
    Hessian,
    InputJacobian,
    NTKMap,
    ParameterJacobian,
    dual_eigenpairs,
    gauss_newton_trace,
    gradient_gram,
    gradient_norms,
    hessian_trace,
    ntk,
)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def broken(where: str) -> Specimen:
    """One NaN in the data, or a weight that overflows."""
    model: Any = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x = torch.randn(7, 3, generator=generator(), dtype=torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator()))
        if where == "weight":
            model[2].weight[0, 0] = math.inf
        else:
            x[3, 1] = math.nan
    return Specimen(model, Classification(), (x, torch.tensor([0, 1, 1, 0, 1, 0, 0])), batch_size=4)


ASKED: dict[str, tuple[Callable[[Specimen], Any], str]] = {
    **{
        kind.__name__: (lambda specimen, kind=kind: kind(specimen).to_dense(), "Products of")
        for kind in (Hessian, ParameterJacobian, InputJacobian, NTKMap)
    },
    **{
        kind.__name__: (lambda specimen, kind=kind: kind(specimen).to_dense(), "The losses must be finite")
        for kind in (GaussNewton, Fisher)
    },
    "covariance": (
        lambda specimen: GradientCovariance(specimen).to_dense(),
        "must be finite; got [0-9]+ NaN or infinite of",
    ),
    "trace": (
        lambda specimen: hessian_trace(specimen, generator=generator()),
        "must be finite; got [0-9]+ NaN or infinite of",
    ),
    "gauss-newton trace": (
        lambda specimen: gauss_newton_trace(specimen, generator=generator()),
        "must be finite; got [0-9]+ NaN or infinite of",
    ),
    "norms": (gradient_norms, "must be finite; got [0-9]+ NaN or infinite of"),
    "gram": (gradient_gram, "must be finite; got [0-9]+ NaN or infinite of"),
    "dual": (dual_eigenpairs, "must be finite; got [0-9]+ NaN or infinite of"),
    "ntk": (ntk, "The network's outputs must be finite; got [0-9]+ NaN or infinite of"),
}


@pytest.mark.parametrize("where", ["data", "weight"])
@pytest.mark.parametrize("name", ASKED)
def test_what_is_not_finite_is_named(name: str, where: str) -> None:
    ask, message = ASKED[name]
    with pytest.raises(NumericalError, match=message):
        ask(broken(where))


def test_losses_of_nan_with_a_finite_gradient_are_refused() -> None:
    class Logarithm(Regression):
        def losses(self, outputs: Tensor, batch: Any) -> Tensor:
            return (outputs.sum(1) - 100).log()

    data = (torch.ones(2, 3), torch.ones(2, 1))
    with pytest.raises(NumericalError, match="The losses must be finite; got 2 NaN or infinite of 2"):
        gradient_norms(Specimen(nn.Linear(3, 1), Logarithm(), data))


def test_scores_masked_by_minus_infinity_are_fine() -> None:
    class Masked(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:  # noqa: A002
            return super().forward(input).masked_fill(torch.tensor([False, False, True]), -math.inf)

    x = torch.randn(4, 3, generator=generator(), dtype=torch.float64)
    model = Masked(3, 3, dtype=torch.float64)
    plain = nn.Linear(3, 2, dtype=torch.float64)
    plain.load_state_dict({"weight": model.weight[:2], "bias": model.bias[:2]})
    y = torch.tensor([0, 1, 1, 0])
    found, expected = (gradient_norms(Specimen(one, Classification(), (x, y))) for one in (model, plain))
    torch.testing.assert_close(found.squared, expected.squared)


def test_a_loss_of_nan_whose_curvature_is_finite_is_named() -> None:
    x, y = torch.ones(3, 2), torch.tensor([[1.0], [math.nan], [0.0]])
    specimen = Specimen(nn.Linear(2, 1), Regression(), (x, y))
    with pytest.raises(NumericalError, match="The losses must be finite; got 1 NaN or infinite of 3"):
        GaussNewton(specimen).matvec(torch.ones(3))
