"""The largest eigenvalue against the optimiser's limit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone.errors import SettingError
from torchstone.instruments.measurement import measure
from torchstone.instruments.trainability.stability_edge import StabilityEdge, judge
from torchstone.objectives import Classification, Regression
from torchstone.reading import Level, Reading
from torchstone.recipe import Recipe
from torchstone.specimen import Specimen
from torchstone.testing import dense_hessian
from torchstone.workbench import Workbench
from torchstone.workbench.update_rule import update_rule


def data(count: int = 60) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x, x[:, :3].argmax(1)


def network(seed: int = 1) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


def edge(model: nn.Module, recipe: Recipe, **settings: Any) -> tuple[Reading, Specimen]:
    specimen = Specimen(model, Classification(), data(), recipe=recipe)
    return measure(StabilityEdge(**settings), Workbench.on(specimen)), specimen


def test_the_eigenvalue_is_that_of_the_dense_hessian() -> None:
    reading, specimen = edge(network(), Recipe(lr=0.5), tolerance=1e-8)
    largest = float(torch.linalg.eigvalsh(dense_hessian(specimen))[-1])
    assert reading.value == pytest.approx(largest * 0.5 / 2, rel=1e-7)
    assert reading.uncertainty is not None
    assert reading.uncertainty.low * (1 - 1e-9) <= largest * 0.5 / 2 <= reading.uncertainty.high * (1 + 1e-9)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.RMSprop])
def test_adaptive_optimisers_see_the_preconditioned_hessian(kind: Any) -> None:
    model = network()
    x, y = data()
    optimizer = kind(model.parameters(), lr=0.01)
    for _ in range(20):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    reading, specimen = edge(model, Recipe(optimizer=optimizer), tolerance=1e-8)
    rule = update_rule(specimen)
    root = torch.cat([scale.flatten() for scale in rule.root_scales])
    seen = root[:, None] * dense_hessian(specimen) * root[None]
    largest = float(torch.linalg.eigvalsh(seen)[-1])
    assert reading.value == pytest.approx(largest / rule.limit, rel=1e-6)
    if kind is torch.optim.Adam:
        assert rule.limit == pytest.approx(38 / 0.01)


def test_weight_decay_and_group_rates_enter() -> None:
    model = network()
    groups = [
        {"params": model[0].parameters()},
        {"params": model[2].parameters(), "lr": 0.4, "weight_decay": 2.0},
    ]
    reading, specimen = edge(model, Recipe(optimizer=torch.optim.SGD(groups, lr=0.1)), tolerance=1e-8)
    hessian, split = dense_hessian(specimen), 8 * 5 + 8
    hessian[split:, split:] += 2.0 * torch.eye(len(hessian) - split)
    root = torch.ones(len(hessian), dtype=torch.float64)
    root[split:] = 2.0
    largest = float(torch.linalg.eigvalsh(root[:, None] * hessian * root[None])[-1])
    assert reading.value == pytest.approx(largest * 0.1 / 2, rel=1e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_raising_the_learning_rate_past_the_limit_moves_the_verdict_and_training_diverges(
    momentum: float,
) -> None:
    """The same network at 0.8 and 1.2 times its limit: judged good and poor, and full-batch steps agree."""
    model = network()
    x, y = data()
    minimise(model, x, y)
    make: Any = lambda lr: torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum, weight_decay=0.04)
    probe, _ = edge(model, Recipe(optimizer=make(1.0)))
    assert probe.value is not None
    for share, level, diverges in ((0.8, Level.GOOD, False), (1.2, Level.POOR, True)):
        reading, _ = edge(model, Recipe(optimizer=make(share / probe.value)))
        assert reading.value == pytest.approx(share, rel=0.02)
        assert reading.verdict.level is level
        assert leaves(model, share / probe.value, momentum) is diverges


def minimise(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """To a stationary point of the loss with L2 penalty 0.04/2 ||w||^2, where the kick of `leaves` is all there is."""
    parameters = list(model.parameters())
    optimizer = torch.optim.LBFGS(
        parameters, max_iter=2000, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        penalty = torch.stack([parameter.square().sum() for parameter in parameters]).sum()
        loss = nn.functional.cross_entropy(model(x), y) + 0.02 * penalty
        loss.backward()
        return loss.detach()

    optimizer.step(closure)
    optimizer.zero_grad()


def leaves(model: nn.Module, lr: float, momentum: float) -> bool:
    """Whether training from a tiny kick away from these weights moves away faster than it comes back."""
    import copy

    x, y = data()
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter.add_(1e-6)
    optimizer = torch.optim.SGD(moved.parameters(), lr=lr, momentum=momentum, weight_decay=0.04)
    start = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    far = 0.0
    for _ in range(300):
        optimizer.zero_grad()
        nn.functional.cross_entropy(moved(x), y).backward()
        optimizer.step()
        far = float(
            (torch.cat([parameter.detach().flatten() for parameter in moved.parameters()]) - start).norm()
        )
    return far > 1e-2


def test_uniform_weight_decay_is_added_to_the_plain_eigenvalue() -> None:
    model = network()
    plain, _ = edge(model, Recipe(lr=0.5), tolerance=1e-8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, weight_decay=3.0)
    decayed, _ = edge(model, Recipe(optimizer=optimizer), tolerance=1e-8)
    assert plain.value is not None
    assert decayed.value == pytest.approx(plain.value + 3.0 * 0.5 / 2, rel=1e-9)


def test_it_says_what_the_edge_means_for_full_batches_and_for_minibatches() -> None:
    full, _ = edge(network(), Recipe(lr=0.5))
    mini, _ = edge(network(), Recipe(lr=0.5, batch_size=10))
    assert "hovers" in full.explanation
    assert "With minibatches of 10" in mini.explanation


class Product(nn.Module):
    """f(x) = a b x: at a minimum a b = 1 of the squared error at x = 1 the largest eigenvalue is 2 (a^2 + b^2)."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor([4.0], dtype=torch.float64))
        self.b = nn.Parameter(torch.tensor([0.25], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.a * self.b * x


def test_training_leaves_a_minimum_past_the_edge_for_one_below_it() -> None:
    model, one = Product(), torch.ones(1, 1, dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    specimen = Specimen(model, Regression(), (one, one), recipe=Recipe(optimizer=optimizer))
    before = measure(StabilityEdge(), Workbench.on(specimen))
    assert before.value == pytest.approx(2 * (16 + 1 / 16) * 0.1 / 2, rel=1e-3)
    assert before.verdict.level is Level.POOR
    with torch.no_grad():
        model.a.add_(1e-3)
    for _ in range(2000):
        optimizer.zero_grad()
        (model(one) - one).square().sum().backward()
        optimizer.step()
    after = measure(StabilityEdge(), Workbench.on(specimen))
    assert float((model.a * model.b).detach()) == pytest.approx(1)
    assert after.value is not None
    assert after.value < 1


def test_judgement() -> None:
    assert judge(-0.5).level is Level.GOOD
    assert judge(0.9).level is Level.GOOD
    assert judge(0.95).level is Level.ATTENTION
    assert judge(1.0).level is Level.ATTENTION
    assert judge(1.001).level is Level.POOR
    assert judge(float("nan")).level is Level.POOR


def test_without_a_learning_rate_the_question_does_not_apply() -> None:
    reading, _ = edge(network(), Recipe())
    assert reading.verdict.level is Level.NOT_APPLICABLE
    assert "learning rate" in reading.verdict.reason


def test_bad_settings_are_named() -> None:
    with pytest.raises(SettingError, match=r"stability_edge\.tolerance"):
        StabilityEdge(tolerance=0.0)
    with pytest.raises(SettingError, match=r"stability_edge\.products"):
        StabilityEdge(products=3)


def test_adams_first_steps_are_not_judged() -> None:
    model = network()
    x, y = data()
    optimizer = torch.optim.Adam(model.parameters(), lr=10.0)
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
    reading, _ = edge(model, Recipe(optimizer=optimizer))
    assert reading.verdict.level is Level.INFORMATIVE
    assert reading.verdict.reason.startswith("Adam has made 1 of the 10 steps that its momentum reaches back")
    assert not reading.remedies
    assert judge(2.0).level is Level.POOR
