"""Limits of optimisers, against the optimisers themselves on quadratics."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from torchstone.errors import NotApplicableError
from torchstone.objectives import Regression
from torchstone.recipe import Recipe
from torchstone.specimen import Specimen
from torchstone.workbench.update_rule import UpdateRule, update_rule


class Quadratic(nn.Module):
    """Least squares whose loss is curvature/2 w^2 for the single input sqrt(curvature/2)."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(1, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.w


def grows(make: Callable[[Any], torch.optim.Optimizer], curvature: float, steps: int = 4000) -> bool:
    """Whether the optimiser, run for real, ends further out than it started."""
    model = Quadratic()
    optimizer = make(model.parameters())
    x = torch.full((1, 1), math.sqrt(curvature / 2), dtype=torch.float64)
    for _ in range(steps):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
        if float(model.w.detach().abs()) > 1e6:
            return True
    return float(model.w.detach().abs()) > 1


OPTIMISERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "plain": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "heavy ball": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "dampened": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.5, dampening=0.5),
    "nesterov": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True),
    "decay": lambda parameters: torch.optim.SGD(parameters, lr=0.1, weight_decay=3.0),
}


def rule_of(make: Callable[[Any], torch.optim.Optimizer]) -> UpdateRule:
    model = Quadratic()
    x = torch.ones(1, 1, dtype=torch.float64)
    return update_rule(
        Specimen(model, Regression(), (x, x), recipe=Recipe(optimizer=make(model.parameters())))
    )


@pytest.mark.parametrize("name", OPTIMISERS)
def test_the_limit_is_where_the_optimiser_begins_to_diverge(name: str) -> None:
    rule = rule_of(OPTIMISERS[name])
    decay = float(rule.decays[0])
    assert not grows(OPTIMISERS[name], (rule.limit - decay) * (1 - 1e-3))
    assert grows(OPTIMISERS[name], (rule.limit - decay) * (1 + 1e-3) + 1e-9)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_the_growth_factor_is_one_at_the_limit(name: str) -> None:
    rule = rule_of(OPTIMISERS[name])
    assert rule.spectral_radius(rule.limit) == pytest.approx(1)
    assert rule.spectral_radius(1.01 * rule.limit) > 1
    assert rule.spectral_radius(0.5 * rule.limit) < 1


def test_adams_limit_with_a_frozen_preconditioner() -> None:
    """beta_2 = 1 - 1e-12 keeps v where it is; the momentum is the average (1 - beta_1) g + beta_1 m."""
    beta, lr = 0.9, 0.01

    def grows_with(curvature: float) -> bool:
        w, m = 1.0, 0.0
        for _ in range(20_000):
            m = beta * m + (1 - beta) * curvature * w
            w -= lr * m
            if abs(w) > 1e6:
                return True
        return abs(w) > 1

    limit = 2 * (1 + beta) / ((1 - beta) * lr)
    assert limit == pytest.approx(38 / lr)  # Cohen et al. 2022
    assert not grows_with(limit * (1 - 1e-3))
    assert grows_with(limit * (1 + 1e-3))


@pytest.mark.parametrize(
    "kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.Adagrad]
)
def test_preconditioners_are_what_the_optimiser_divides_by(kind: Any) -> None:
    """The rule's scale times the momentum's direction is the step that the optimiser really makes."""
    model = nn.Linear(3, 1).double()
    optimizer = kind(model.parameters(), lr=0.01, weight_decay=0.0)
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(20, size, generator=generator, dtype=torch.float64) for size in (3, 1))
    before = model.weight.detach().clone()
    for _ in range(5):
        before = model.weight.detach().clone()
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()
    rule = update_rule(Specimen(model, Regression(), (x, y), recipe=Recipe(optimizer=optimizer)))
    state = optimizer.state[model.weight]
    direction = model.weight.grad
    assert direction is not None
    if "exp_avg" in state:
        direction = state["exp_avg"] / (1 - 0.9 ** float(state["step"]))
    expected = -0.01 * rule.root_scales[0].square() * direction
    assert torch.allclose(model.weight.detach() - before, expected, rtol=1e-6)


def test_groups_scale_their_parameters() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    groups = [
        {"params": model[1].parameters(), "lr": 0.4},
        {"params": model[0].parameters(), "weight_decay": 0.01},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    x = torch.zeros(4, 2)
    rule = update_rule(Specimen(model, Regression(), (x, x[:, :1]), recipe=Recipe(optimizer=optimizer)))
    assert rule.lr == 0.1  # of the first parameter in the model's order
    assert [float(scale.flatten()[0]) for scale in rule.root_scales] == [1.0, 1.0, 2.0, 2.0]
    assert [float(decay.flatten()[0]) for decay in rule.decays] == pytest.approx([0.01, 0.01, 0, 0])


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (lambda _: Recipe(), "learning rate"),
        (lambda p: Recipe(optimizer=torch.optim.LBFGS(p, lr=0.1)), "no stability limit is known for LBFGS"),
        (lambda p: Recipe(optimizer=torch.optim.Adam(p, lr=0.1)), "made no step yet"),
        (lambda _: Recipe(optimizer=torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)), "does not hold"),
    ],
)
def test_limits_that_are_not_known(recipe: Any, words: str) -> None:
    model = Quadratic()
    x = torch.ones(1, 1, dtype=torch.float64)
    with pytest.raises(NotApplicableError, match=words):
        update_rule(Specimen(model, Regression(), (x, x), recipe=recipe(model.parameters())))
