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
        direction = state["exp_avg"] / (
            1 - 0.9**5
        )  # the momentum's own correction is none of the preconditioner's
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


def adaptive(kind: Any, root: float, **options: Any) -> Callable[[Any], torch.optim.Optimizer]:
    """The optimiser after so many steps that sqrt(v) stays what it is."""

    def make(parameters: Any) -> torch.optim.Optimizer:
        optimizer = kind(parameters, lr=0.01, eps=0.25, **options)
        (parameter,) = optimizer.param_groups[0]["params"]
        square = torch.full_like(parameter, root**2)
        optimizer.state[parameter] = {
            "step": torch.tensor(1e15, dtype=torch.float64),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": square.clone(),
            "square_avg": square.clone(),
            "momentum_buffer": torch.zeros_like(parameter),
        }
        return optimizer

    return make


def leaves(make: Callable[[Any], torch.optim.Optimizer], curvature: float) -> bool:
    """Whether the optimiser moves a thousand times further out, from so near that its preconditioner does not notice."""
    model = Quadratic()
    optimizer = make(model.parameters())
    with torch.no_grad():
        model.w.fill_(1e-8)
    x = torch.full((1, 1), math.sqrt(curvature / 2), dtype=torch.float64)
    for _ in range(3000):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
        if float(model.w.detach().abs()) > 1e-5:
            return True
    return False


SLOW = {"betas": (0.9, 1 - 1e-13)}


@pytest.mark.parametrize(
    "make",
    [
        adaptive(torch.optim.Adam, 3.0, **SLOW),
        adaptive(torch.optim.Adam, 3.0, weight_decay=5.0, **SLOW),
        adaptive(torch.optim.AdamW, 3.0, weight_decay=40.0, **SLOW),
        adaptive(torch.optim.RMSprop, 3.0, alpha=1 - 1e-15),
        adaptive(torch.optim.RMSprop, 3.0, alpha=1 - 1e-15, momentum=0.8),
    ],
    ids=["Adam", "Adam with L2 penalty", "AdamW", "RMSprop", "RMSprop with momentum"],
)
def test_adaptive_limits_are_where_the_optimisers_begin_to_diverge(
    make: Callable[[Any], torch.optim.Optimizer],
) -> None:
    """PyTorch's own steps on a quadratic whose curvature is just below and just above what the rule allows."""
    rule = rule_of(make)
    scale, decay = float(rule.root_scales[0]) ** 2, float(rule.decays[0])
    edge = rule.limit / scale - decay
    assert edge > 0
    assert not leaves(make, edge * 0.99)
    assert leaves(make, edge * 1.01)


def two_layers(make: Callable[[nn.Sequential], Any], **said: Any) -> UpdateRule:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    x = torch.zeros(4, 2)
    recipe = Recipe(optimizer=make(model), **said)
    return update_rule(Specimen(model, Regression(), (x, x[:, :1]), recipe=recipe))


def groups_of(model: nn.Sequential) -> list[dict[str, Any]]:
    return [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[1].parameters(), "lr": 0.4}]


def scales(rule: UpdateRule) -> list[float]:
    return [float(root.flatten()[0]) ** 2 for root in rule.root_scales]


def test_a_rate_that_the_recipe_says_keeps_the_groups_ratios() -> None:
    rule = two_layers(lambda model: torch.optim.SGD(groups_of(model)), lr=1.0)
    assert (rule.lr, rule.limit) == (1.0, 2.0)
    assert scales(rule) == pytest.approx([1, 1, 4, 4])


def test_a_rate_that_a_schedule_brought_to_zero_is_replaced_by_what_the_recipe_says() -> None:
    def make(model: nn.Sequential) -> torch.optim.Optimizer:
        optimizer = torch.optim.SGD(groups_of(model))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3)
        for _ in range(3):
            optimizer.step()
            schedule.step()
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0)
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        return optimizer

    rule = two_layers(make, lr=0.1)
    assert rule.lr == pytest.approx(0.1)
    assert scales(rule) == pytest.approx([1, 1, 4, 4])
    with pytest.raises(NotApplicableError, match="learning rate is 0 by now"):
        two_layers(make)


def test_parameters_that_the_optimiser_does_not_hold_do_not_move() -> None:
    rule = two_layers(lambda model: torch.optim.SGD(model[1].parameters(), lr=0.2))
    assert scales(rule) == [0, 0, 1, 1]


def test_a_function_that_makes_the_optimiser_tells_its_kind() -> None:
    rule = two_layers(lambda _: lambda parameters: torch.optim.SGD(parameters, lr=9.0, momentum=0.5), lr=0.1)
    assert rule.limit == pytest.approx(2 * 1.5 / 0.1)
    with pytest.raises(NotApplicableError, match="with the optimiser after training"):
        two_layers(lambda _: lambda parameters: torch.optim.Adam(parameters), lr=0.1)


def test_a_copy_on_another_device_is_recognised() -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.zeros(4, 2)
    specimen = Specimen(model, Regression(), (x, x[:, :1]), recipe=Recipe(optimizer=optimizer))
    rule = update_rule(specimen.to("meta"))
    assert rule.limit == pytest.approx(20)
    assert {root.device.type for root in rule.root_scales} == {"meta"}


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (lambda _: Recipe(), "learning rate"),
        (lambda p: Recipe(optimizer=torch.optim.LBFGS(p, lr=0.1)), "no stability limit is known for LBFGS"),
        (lambda p: Recipe(optimizer=torch.optim.NAdam(p, lr=0.1)), "no stability limit is known for NAdam"),
        (lambda p: Recipe(optimizer=torch.optim.SGD(p, lr=0.1, maximize=True)), "maximises"),
        (lambda p: Recipe(optimizer=torch.optim.Adam(p, lr=0.1)), "made no step yet"),
        (lambda _: Recipe(optimizer=torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)), "does not hold"),
    ],
)
def test_limits_that_are_not_known(recipe: Any, words: str) -> None:
    model = Quadratic()
    x = torch.ones(1, 1, dtype=torch.float64)
    with pytest.raises(NotApplicableError, match=words):
        update_rule(Specimen(model, Regression(), (x, x), recipe=recipe(model.parameters())))


@pytest.mark.parametrize("steps", [1, 3, 10, 30])
def test_adams_first_steps_are_judged_by_what_later_ones_do(steps: int) -> None:
    """On a parabola with v held, errors grow for ever exactly past the limit, however few steps were made before."""
    model = nn.Linear(1, 1, bias=False).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, betas=(0.9, 1 - 1e-13), eps=1.0)
    x = torch.ones(4, 1, dtype=torch.float64)
    for _ in range(steps):
        optimizer.zero_grad()
        (0 * model(x)).sum().backward()  # v stays 0, so that the divisor is eps
        optimizer.step()
    rule = update_rule(Specimen(model, Regression(), (x, x), recipe=Recipe(optimizer=optimizer)))
    assert float(rule.root_scales[0]) == pytest.approx(1.0)
    assert bool(rule.unsettled) == (steps < 10)

    def final(curvature: float) -> float:
        w, m, largest = 1.0, 0.0, 0.0
        for step in range(steps + 1, 3000):
            m = 0.9 * m + 0.1 * curvature * w
            w -= 0.01 * m / (1 - 0.9**step)
            largest = max(largest, abs(w)) if step > 2900 else 0.0
            if abs(w) > 1e100:
                return abs(w)
        return largest

    assert final(rule.limit * 0.98) < 1e-6
    assert final(rule.limit * 1.02) > 1e6
