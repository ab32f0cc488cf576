"""Signals, gradients and differences between examples through the depth, against mean-field theory."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from torchstone.details import Curve
from torchstone.init import Scheme, apply, correlation_map, critical_point, variance_map
from torchstone.instruments.measurement import measure
from torchstone.instruments.trainability.signal_propagation import (
    SignalPropagation,
    judge,
    uncertainty,
    worst_of,
)
from torchstone.layers.residual import Residual
from torchstone.objectives import Classification, Regression
from torchstone.reading import Level, Reading
from torchstone.recipe import Recipe
from torchstone.specimen import Specimen
from torchstone.workbench import Workbench
from torchstone.workbench.propagation import Propagation


def random_network(
    depth: int, width: int, activation: Callable[[], nn.Module], weight: float, bias: float, seed: int = 0
) -> nn.Sequential:
    generator, layers = torch.Generator().manual_seed(seed), []
    for _ in range(depth):
        layers += [nn.Linear(width, width), activation()]
    model = nn.Sequential(*layers, nn.Linear(width, 10))
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, nn.Linear):
                draw = lambda like: torch.randn(like.shape, generator=generator)
                layer.weight.copy_(draw(layer.weight) * (weight / width) ** 0.5)
                layer.bias.copy_(draw(layer.bias) * bias**0.5)
    return model


def data(width: int, count: int = 96) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, width, generator=torch.Generator().manual_seed(9))
    return x, x[:, :10].argmax(1)


def reading_of(model: nn.Module, width: int, known: bool = True, count: int = 96) -> Reading:
    recipe = Recipe(initial_state={k: v.clone() for k, v in model.state_dict().items()}) if known else None
    one = Specimen(model, Classification(), data(width, count), recipe=recipe)
    return measure(SignalPropagation(), Workbench.on(one))


def test_wide_tanh_networks_follow_the_maps_of_variance_and_correlation() -> None:
    """Width 1000, 8 layers: every layer within 6% of the maps applied by hand, and of what is predicted."""
    width, weight, bias = 1000, 1.6, 0.1
    model = random_network(8, width, nn.Tanh, weight, bias)
    found = Propagation.of(Specimen(model, Classification(), data(width)), torch.arange(96))
    q, c = found.layers[0].variance, found.layers[0].correlation
    for i in range(1, 8):
        then = variance_map(torch.tanh, q, weight, bias)
        c = correlation_map(torch.tanh, c, q, weight, bias) * q / then
        q = then
        assert found.layers[i].variance == pytest.approx(q, rel=0.06)
        assert found.layers[i].correlation == pytest.approx(c, abs=0.03)
        assert found.predicted[0][i] == pytest.approx(q, rel=0.06)
        assert found.predicted[1][i] == pytest.approx(c, abs=0.03)


def test_gradients_follow_chi_towards_the_input() -> None:
    width = 1000
    model = random_network(8, width, nn.Tanh, 1.6, 0.1)
    found = Propagation.of(Specimen(model, Classification(), data(width)), torch.arange(64))
    predicted = found.expected("gradient")
    for i in range(7):
        assert predicted[i] == pytest.approx(found.gradients[i], rel=0.15)
    slope = found.change("gradient") / 7
    assert slope == pytest.approx(-sum(map(math.log, found.factors[1:7])) / 6, abs=0.05)
    assert found.depth_scale == pytest.approx(1 / abs(sum(map(math.log, found.factors[:8])) / 8))


def test_convolutions_without_padding_follow_the_maps_too() -> None:
    generator = torch.Generator().manual_seed(0)
    layers: list[nn.Module] = []
    for inputs in (3, 200, 200):
        layers += [nn.Conv2d(inputs, 200, 3), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(200 * 36, 10))
    apply(model, "kaiming", generator=generator)
    x = torch.randn(24, 3, 12, 12, generator=generator)
    one = Specimen(model, Classification(), (x, torch.arange(24) % 10))
    found = Propagation.of(one, torch.arange(24))
    assert [layer.plain for layer in found.layers] == [True, True, True, False]
    for i in (1, 2):
        assert found.predicted[0][i] == pytest.approx(found.layers[i].variance, rel=0.15)
        assert found.predicted[1][i] == pytest.approx(found.layers[i].correlation, abs=0.06)


def test_the_ordered_phase_makes_inputs_alike_and_is_poor() -> None:
    reading = reading_of(random_network(25, 300, nn.Tanh, 1.1, 0.4), 300)
    assert reading.verdict.level is Level.POOR
    assert any(word in reading.verdict.reason for word in ("difference", "gradient"))
    assert reading.remedies
    assert {"vanishing_gradients", "residual_jacobian"} <= {remedy.claim for remedy in reading.remedies}


@pytest.mark.parametrize("factor", [0.2, 5.0])
def test_weights_too_small_or_too_large_are_poor(factor: float) -> None:
    reading = reading_of(random_network(10, 64, nn.ReLU, 2 * factor, 0.0), 64)
    assert reading.verdict.level is Level.POOR
    # Nine steps from the first hidden layer to the last, each by the factor.
    assert abs(reading.value or 0) == pytest.approx(9 * abs(math.log(factor)), rel=0.15)


def test_networks_at_the_edge_of_chaos_are_good() -> None:
    weight = critical_point(torch.tanh, 0.02)
    reading = reading_of(random_network(8, 300, nn.Tanh, weight.weight_variance, 0.02), 300)
    assert reading.verdict.level is Level.GOOD
    assert reading.remedies == ()
    assert reading.headline.startswith("At initialisation, over the hidden layers the variance")


def test_shortcuts_keep_inputs_apart() -> None:
    def network(scale: float, scheme: Scheme = "kaiming") -> nn.Module:
        blocks: list[nn.Module] = []
        for _ in range(25):
            branch = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
            blocks.append(Residual(branch, scale=scale) if scale else nn.Sequential(branch, nn.ReLU()))
        model = nn.Sequential(*blocks, nn.Linear(64, 10))
        apply(model, scheme, generator=torch.Generator().manual_seed(0))
        return model

    plain, residual = reading_of(network(0.0), 64), reading_of(network(1 / 25), 64)
    assert plain.verdict.level in (Level.ATTENTION, Level.POOR)
    assert residual.verdict.level is Level.GOOD


def test_unknown_start_is_informative_and_curves_show_both_states_where_it_is_known() -> None:
    model = random_network(4, 64, nn.ReLU, 0.2, 0.0)
    unknown = reading_of(model, 64, known=False)
    assert unknown.verdict.level is Level.INFORMATIVE
    assert "Now" in unknown.headline
    known = reading_of(model, 64)
    curves = [detail for detail in known.details if isinstance(detail, Curve)]
    assert len(curves) == 3
    for curve in curves:
        names = [line.name for line in curve.lines]
        assert names == ["now", "at initialisation", "mean-field prediction, at initialisation"]


@pytest.mark.parametrize("kind", ["variance", "gradient", "difference"])
def test_the_error_bar_covers_the_value_of_all_examples(kind: str) -> None:
    """50 draws of 64 examples from 2000: the interval covers the change over all of them at least 43 times."""
    model = random_network(3, 32, nn.ReLU, 1.5, 0.05)
    one = Specimen(model, Classification(), data(32, 2000))
    everything = Propagation.of(one, torch.arange(2000)).change(kind)
    generator, hits = torch.Generator().manual_seed(3), 0
    for _ in range(50):
        rows = torch.randperm(2000, generator=generator)[:64].sort().values
        bar = uncertainty(one, rows, kind, Propagation.of(one, rows).change(kind))
        assert bar is not None
        hits += bar.low <= everything <= bar.high
    assert hits >= 43


def test_identical_inputs_have_no_difference_to_lose() -> None:
    model = random_network(3, 8, nn.Tanh, 1.0, 0.1)
    one = Specimen(model, Regression(), (torch.ones(40, 8), torch.zeros(40, 10)))
    found = Propagation.of(one, torch.arange(40))
    assert math.isnan(found.change("difference"))
    assert math.isfinite(found.change("variance"))


@pytest.mark.parametrize(
    ("changes", "known", "level"),
    [
        ({"variance": 0.1, "gradient": -2.9, "difference": 9.0}, True, Level.GOOD),
        ({"variance": 0.1, "gradient": -3.1, "difference": 0.0}, True, Level.ATTENTION),
        ({"variance": 0.1, "gradient": 0.0, "difference": -6.1}, True, Level.POOR),
        ({"variance": -math.inf, "gradient": math.nan, "difference": math.nan}, True, Level.POOR),
        ({"variance": 50.0, "gradient": 0.0, "difference": 0.0}, False, Level.INFORMATIVE),
        ({"variance": math.nan, "gradient": math.nan, "difference": math.nan}, True, Level.INFORMATIVE),
    ],
)
def test_judgement(changes: dict[str, float], known: bool, level: Level) -> None:
    assert judge(changes, known).level is level


def test_inputs_that_separate_are_no_harm() -> None:
    assert worst_of({"variance": 0.5, "gradient": 0.1, "difference": 30.0}) == "variance"
