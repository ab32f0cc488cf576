"""Singular values of Jacobians: isometries, collapse, references, error bars."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from torchstone.details import Table
from torchstone.init import Scheme, apply
from torchstone.instruments.measurement import measure
from torchstone.instruments.trainability.jacobian_spectrum import Examples, JacobianSpectrum, judge
from torchstone.layers.residual import Residual
from torchstone.objectives import Classification
from torchstone.reading import Level, Reading
from torchstone.recipe import Recipe
from torchstone.specimen import Specimen
from torchstone.workbench import Workbench
from torchstone.workbench.singular_spectrum import SingularSpectrum

WIDTH = 32


def data(count: int = 40) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x, x[:, :10].argmax(1)


def network(
    depth: int,
    scheme: Scheme,
    activation: Callable[[], nn.Module] = nn.ReLU,
    residual: float = 0.0,
    seed: int = 0,
) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(depth):
        pair = [nn.Linear(WIDTH, WIDTH), activation()]
        layers += [Residual(nn.Sequential(*pair), scale=residual)] if residual else pair
    model = nn.Sequential(*layers, nn.Linear(WIDTH, 10)).double()
    apply(model, scheme, generator=torch.Generator().manual_seed(seed))
    return model


def exact_spread(model: nn.Sequential, first: int, last: int, x: Tensor) -> float:
    """Of the Jacobian of the modules from `first` to before `last`, densely."""
    hidden = model[:first](x).detach()
    exact = torch.autograd.functional.jacobian(model[first:last], hidden)  # pyright: ignore[reportArgumentType]
    assert isinstance(exact, Tensor)
    squared = torch.linalg.svdvals(exact).square()
    return float(squared.var(correction=0) / squared.mean() ** 2)


def spectrum(model: nn.Module, start: bool = True, **settings: int) -> Reading:
    recipe = Recipe(initial_state={k: v.clone() for k, v in model.state_dict().items()}) if start else None
    one = Specimen(model, Classification(), data(), recipe=recipe)
    return measure(JacobianSpectrum(**settings), Workbench.on(one))


def test_the_value_is_that_of_the_dense_jacobian_between_the_hidden_layers() -> None:
    model = network(4, "kaiming")
    reading = spectrum(model, examples=40, layers=1)
    found = [exact_spread(model, 2, 8, x) for x in data()[0]]
    assert reading.value == pytest.approx(sum(found) / len(found))


def test_orthogonal_linear_networks_are_isometries() -> None:
    reading = spectrum(network(20, "orthogonal", nn.Identity))
    assert reading.value == pytest.approx(0, abs=1e-20)
    assert reading.verdict.level is Level.GOOD
    assert "32 of 32 directions" in reading.headline


def test_deep_plain_networks_collapse_and_residual_ones_do_not() -> None:
    deep = spectrum(network(60, "kaiming"), layers=1, examples=2)
    assert deep.verdict.level is Level.POOR
    assert deep.verdict.source
    blocks = {remedy.block for remedy in deep.remedies}
    assert {"torchstone.init.apply", "torch.nn.LayerNorm"} <= blocks
    assert {"dynamical_isometry", "residual_jacobian"} <= {remedy.claim for remedy in deep.remedies}
    residual = spectrum(network(60, "kaiming", residual=1 / 60), layers=1, examples=2)
    assert residual.verdict.level is Level.GOOD
    assert residual.value is not None
    assert residual.value < 1
    assert residual.remedies == ()


def test_a_trained_network_whose_start_is_unknown_is_not_judged() -> None:
    reading = spectrum(network(60, "kaiming"), start=False, layers=1, examples=2)
    assert reading.verdict.level is Level.INFORMATIVE
    assert any("initial_state=" in note for note in reading.notes)


def test_a_network_that_nothing_passes_is_poor() -> None:
    model = network(4, "kaiming")
    with torch.no_grad():
        model[2].bias.fill_(-1e6)  # pyright: ignore[reportCallIssue]
    reading = spectrum(model)
    assert reading.value is None
    assert reading.verdict.level is Level.POOR
    assert "every singular value" in reading.headline


def test_stretches_multiply_to_the_whole_and_the_table_says_how() -> None:
    reading = spectrum(network(3, "orthogonal", nn.Tanh), dense=8)
    (table,) = [detail for detail in reading.details if isinstance(detail, Table)]
    names = [row[0] for row in table.rows]
    assert names[:2] == ["input to outputs", "layer 2 to layer 6"]
    assert {"input to layer 2", "layer 2 to layer 4", "layer 6 to outputs"} <= set(names)
    assert "Golub-Kahan, ends from inside" in {row[-1] for row in table.rows}
    assert any("lower bound" in note for note in reading.notes)


def test_few_layers_are_stretched_over_many() -> None:
    reading = spectrum(network(12, "orthogonal", nn.Tanh), layers=4)
    (table,) = [detail for detail in reading.details if isinstance(detail, Table)]
    assert len([row for row in table.rows if "initialisation" not in str(row[0])]) == 6


def test_the_error_bar_covers_the_mean_over_all_examples() -> None:
    """200 draws of 6 examples from 300: the interval covers the mean at least 90% of the time."""
    model, (x, _) = network(5, "kaiming"), data(300)
    spreads = [exact_spread(model, 2, 10, one) for one in x]
    generator, hits = torch.Generator().manual_seed(5), 0
    for _ in range(200):
        rows = torch.randperm(300, generator=generator)[:6].tolist()
        bar = Examples(tuple(made(spreads[row]) for row in rows)).uncertainty
        assert bar is not None
        hits += bar.low <= sum(spreads) / 300 <= bar.high
    assert hits >= 180


def made(spread: float, count: int = 32) -> SingularSpectrum:
    return SingularSpectrum((count, count), 1.0, spread, 1.0, 0.1, 1e-6)


@pytest.mark.parametrize(
    ("spread", "count", "level"),
    [
        (0.0, 32, Level.GOOD),
        (19.9, 300, Level.GOOD),
        (20.1, 300, Level.ATTENTION),
        (30.0, 32, Level.POOR),
        (5.5, 7, Level.GOOD),  # too few directions to speak of a collapse
        (0.0, 1, Level.GOOD),
        (float("nan"), 32, Level.POOR),
    ],
)
def test_judgement(spread: float, count: int, level: Level) -> None:
    before = Examples((made(spread, count), made(spread, count)))
    assert judge(before, Examples((made(1.0),))).level is level
