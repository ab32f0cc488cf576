"""Which scheme weights follow, what they should be, and the judgement of the initial state alone."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from torchstone.details import Table
from torchstone.init import Scheme, apply, draw_weight
from torchstone.instruments.measurement import measure
from torchstone.instruments.trainability.initialisation_check import (
    InitialisationCheck,
    distribution_of,
    judge,
    scheme_of,
)
from torchstone.objectives import Classification
from torchstone.reading import Level, Reading
from torchstone.recipe import Recipe
from torchstone.specimen import Specimen
from torchstone.workbench import Workbench

WIDTH = 64


def network(depth: int = 10, activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(WIDTH, WIDTH), activation()]
    return nn.Sequential(*layers, nn.Linear(WIDTH, 10))


def check(model: nn.Module, known: bool = True) -> Reading:
    x = torch.randn(40, WIDTH, generator=torch.Generator().manual_seed(0))
    recipe = Recipe(initial_state={k: v.clone() for k, v in model.state_dict().items()}) if known else None
    one = Specimen(model, Classification(), (x, x[:, :10].argmax(1)), recipe=recipe)
    return measure(InitialisationCheck(), Workbench.on(one))


def rows(reading: Reading) -> list[tuple]:
    (table,) = [detail for detail in reading.details if isinstance(detail, Table)]
    return list(table.rows)


@pytest.mark.parametrize(
    ("scheme", "wanted", "expected", "distribution"),
    [
        ("lecun", math.sqrt(2), "LeCun", "normal"),
        ("lecun_uniform", math.sqrt(2), "LeCun", "uniform"),
        ("lecun_truncated", math.sqrt(2), "LeCun", "truncated normal"),
        ("xavier", 1.0, "Xavier", "normal"),
        ("xavier", 1.6, "Xavier with gain", "normal"),
        ("kaiming", math.sqrt(2), "Kaiming", "normal"),
        ("kaiming_uniform", math.sqrt(2), "Kaiming", "uniform"),
        ("kaiming_fan_out", math.sqrt(2), "Kaiming, fan out", "normal"),
        ("orthogonal", 1.3, "orthogonal, gain 1.3", "normal"),
    ],
)
@pytest.mark.parametrize("layer", [nn.Linear(150, 70), nn.Conv2d(24, 10, 5)], ids=["dense", "convolution"])
def test_each_scheme_is_recognised(
    layer: nn.Module, scheme: Scheme, wanted: float, expected: str, distribution: str
) -> None:
    weight = draw_weight(layer, scheme, wanted, torch.Generator().manual_seed(0)).double()
    assert scheme_of(layer, weight, wanted) == expected
    assert distribution_of(weight) == distribution


def test_pytorchs_own_default_is_recognised_and_too_small_for_relu() -> None:
    generator, model = torch.Generator().manual_seed(0), network()
    with torch.no_grad():
        for parameter in model.parameters():
            bound = WIDTH**-0.5  # what nn.Linear draws from, for weights and biases
            parameter.copy_((2 * torch.rand(parameter.shape, generator=generator) - 1) * bound)
    reading = check(model)
    assert {row[6] for row in rows(reading)} == {"PyTorch's default"}
    # sigma_w^2 = 1/3 where ReLU needs 2, through ten activations.
    assert reading.value == pytest.approx(10 * math.log(1 / 6), abs=0.3)
    assert reading.verdict.level is Level.POOR
    assert reading.remedies[0].block == "torchstone.init.apply"


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.GELU, nn.SELU])
def test_kaiming_with_the_activations_own_gain_is_good(activation: Callable[[], nn.Module]) -> None:
    model = network(6, activation)
    apply(model, "kaiming", generator=torch.Generator().manual_seed(0))
    reading = check(model)
    assert reading.value == pytest.approx(0, abs=0.4)
    assert reading.verdict.level is Level.GOOD
    assert all("Kaiming" in row[6] or "LeCun" in row[6] for row in rows(reading))


def test_without_the_initial_state_nothing_is_judged() -> None:
    reading = check(network(), known=False)
    assert reading.verdict.level is Level.INFORMATIVE
    assert reading.headline.startswith("Now")
    assert any("initial_state=" in note for note in reading.notes)


def test_a_layer_of_zeros_is_poor_and_named() -> None:
    model = network(3)
    apply(model, "kaiming", generator=torch.Generator().manual_seed(0))
    nn.init.zeros_(model[2].weight)  # pyright: ignore[reportArgumentType]
    reading = check(model)
    assert reading.verdict.level is Level.POOR
    assert reading.value is None
    assert "zeros" in {row[6] for row in rows(reading)}


def test_where_normalisation_follows_the_size_decides_nothing() -> None:
    layers = [nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH), nn.ReLU(), nn.Linear(WIDTH, 10)]
    reading = check(nn.Sequential(*layers))
    assert reading.value is None
    assert reading.verdict.level is Level.INFORMATIVE
    assert {row[-1] for row in rows(reading)} == {"no"}


def test_a_bad_initialisation_shows_in_the_signal_as_it_says() -> None:
    """The predicted factor is what happens to the variance of a wide network on standard normal data."""
    model = network(8)
    apply(model, "lecun", generator=torch.Generator().manual_seed(0))
    value = check(model).value
    x = torch.randn(2000, WIDTH, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before, after = model[:1](x).square().mean(), model[:-2](x).square().mean()
    measured = float((after / before).log()) * 8 / 7  # from the first of eight layers to the last
    assert value == pytest.approx(measured, abs=1.2)


@pytest.mark.parametrize(
    ("change", "known", "level"),
    [
        (0.0, True, Level.GOOD),
        (-3.1, True, Level.ATTENTION),
        (6.1, True, Level.POOR),
        (math.inf, True, Level.POOR),
        (-math.inf, True, Level.POOR),
        (math.nan, True, Level.POOR),
        (9.0, False, Level.INFORMATIVE),
        (None, True, Level.INFORMATIVE),
    ],
)
def test_judgement(change: float | None, known: bool, level: Level) -> None:
    assert judge(change, 5, known).level is level


def test_tiny_and_odd_weights() -> None:
    assert scheme_of(nn.Linear(3, 2), torch.zeros(2, 3), 1.0) == "zeros"
    assert "none; " in scheme_of(nn.Linear(300, 200), torch.full((200, 300), 9.0), 1.0)
    assert scheme_of(nn.Linear(1, 1), torch.ones(1, 1), 1.0)
    assert distribution_of(torch.ones(3)) == ""
    heavy: Tensor = torch.randn(5000, generator=torch.Generator().manual_seed(0)).pow(3)
    assert distribution_of(heavy) == "heavy tails"
