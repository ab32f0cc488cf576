"""Operators answer for the model as it is now, in whatever way it was changed between two products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from torchstone.objectives import Classification
from torchstone.operators import Fisher, GaussNewton, GradientCovariance, Hessian, ParameterJacobian
from torchstone.operators.model_state import ModelState
from torchstone.specimen import Specimen


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3)).double()
    with torch.no_grad():
        for k, parameter in enumerate(model.parameters()):
            parameter.copy_(draw(*parameter.shape, seed=k))
    return model


X, Y = draw(6, 3, seed=20), torch.arange(6) % 3


@torch.no_grad()
def optimiser(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.add_(0.1)


def under_data(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.data.add_(0.1)


def other_memory(model: nn.Module) -> None:
    vector = parameters_to_vector(model.parameters()).detach()
    vector_to_parameters(1.1 * vector, model.parameters())


def statistics(model: nn.Module) -> None:
    model.train()
    model(X)
    model.eval()


def same_values(model: nn.Module) -> None:
    model.load_state_dict({name: value.clone() for name, value in model.state_dict().items()})


CHANGES = [optimiser, under_data, other_memory, statistics, same_values]
OPERATORS: list[Callable[[Specimen], Any]] = [
    Hessian,
    GaussNewton,
    GradientCovariance,
    ParameterJacobian,
    lambda specimen: Fisher(specimen, "sampled", generator=torch.Generator().manual_seed(0)),
]


@pytest.mark.parametrize("change", CHANGES)
def test_products_follow_the_model(change: Callable[[nn.Module], None]) -> None:
    for operator in OPERATORS:
        specimen = Specimen(network(), Classification(), (X, Y), batch_size=4).prepared()
        matrix = operator(specimen)
        v = draw(matrix.shape[1], seed=30)
        before = matrix.matvec(v)
        change(specimen.model)
        after, fresh = matrix.matvec(v), operator(specimen).matvec(v)
        torch.testing.assert_close(after, fresh, rtol=1e-12, atol=1e-14)
        assert change is same_values or not torch.allclose(before, after, rtol=1e-3)


def test_graphs_are_kept_as_long_as_the_model_stays() -> None:
    for model in (network().eval(), network().train()):  # statistics that a pass updates are put back
        specimen = Specimen(model, Classification(), (X, Y), mode="as_is").prepared()
        matrix = Hessian(specimen)
        matrix.matvec(draw(matrix.shape[1], seed=30))
        forward = specimen.passes.forward
        matrix.matvec(draw(matrix.shape[1], seed=31))
        assert specimen.passes.forward == forward


def test_a_state_that_holds() -> None:
    model = network()
    state = ModelState(model)
    assert state.holds()
    model.register_buffer("more", torch.zeros(1))
    assert not state.holds()
