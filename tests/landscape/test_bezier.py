"""Bent paths around a ridge whose lowest pass is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone import Specimen
from torchstone.errors import NumericalError, SettingError
from torchstone.landscape import (
    BendTraining,
    Bezier,
    Point,
    PolygonalChain,
    Profile,
    every_parameter,
    from_state,
    train_bend,
    values_at,
)
from torchstone.testing import model_state, same_state

SGD = lambda vectors: torch.optim.SGD(vectors, lr=0.05)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def valley(x: Tensor, y: Tensor) -> Tensor:
    """Minima at (-1, 0) and (1, 0). Every path crosses x = 0, where f >= 1; along y = 1 - x^2 it is at most 1.

    The straight line pays 1 + 4 at x = 0. The quadratic Bezier curve with its bend at (0, 2) is that parabola.
    """
    return (x.square() - 1).square() + 4 * (y - 1 + x.square()).square()


def path_barrier(specimen: Specimen, curve: Any) -> float:
    space = every_parameter(specimen)
    places = torch.linspace(0, 1, 101, dtype=torch.float64).tolist()
    return Profile(tuple(places), values_at(specimen, space, curve, places).losses).barrier.value


def ends(specimen: Specimen) -> tuple[Point, Point]:
    space = every_parameter(specimen)
    states = ({"place": torch.tensor([x, 0.0]).double()} for x in (-1.0, 1.0))
    first, second = (from_state(specimen, space, state) for state in states)
    return first, second


def test_a_trained_bezier_curve_finds_the_pass(height_map: Callable[..., Specimen]) -> None:
    specimen = height_map(valley)
    before = model_state(specimen.model)
    straight = Bezier.straight(*ends(specimen))
    assert path_barrier(specimen, straight) == pytest.approx(5, abs=1e-3)
    training = BendTraining(steps=800, batch_size=2, optimizer=SGD)
    bent, losses = train_bend(specimen, every_parameter(specimen), straight, training, seeded(0))
    assert path_barrier(specimen, bent) == pytest.approx(1, abs=1e-3)
    # Where along the parabola the curve is at t = 1/2 hardly matters to the loss, so x converges slowly.
    assert bent.bend.tolist() == [pytest.approx(0, abs=0.1), pytest.approx(2, abs=0.01)]
    assert len(losses) == 800
    assert same_state(before, model_state(specimen.model))
    again, _ = train_bend(specimen, every_parameter(specimen), straight, training, seeded(0))
    assert torch.equal(bent.bend, again.bend)


def test_a_chain_with_one_bend_does_better_than_the_line(height_map: Callable[..., Specimen]) -> None:
    specimen = height_map(valley)
    straight = PolygonalChain.straight(*ends(specimen))
    assert path_barrier(specimen, straight) == pytest.approx(5, abs=1e-3)
    training = BendTraining(steps=400, batch_size=3, optimizer=SGD)
    bent, _ = train_bend(specimen, every_parameter(specimen), straight, training, seeded(0))
    assert path_barrier(specimen, bent) < 2.0


@pytest.mark.parametrize("kind", [Bezier, PolygonalChain])
def test_the_share_of_the_bend_is_the_derivative(kind: Any) -> None:
    start, bend, end = torch.randn(3, 4, generator=seeded(0), dtype=torch.float64)
    curve = kind(Point(start), bend, Point(end))
    assert torch.equal(curve.at(0.0).weights, start)
    assert torch.equal(curve.at(1.0).weights, end)
    for place in (0.1, 0.5, 0.7):
        moved = curve.with_bend(bend + 1).at(place).weights - curve.at(place).weights
        assert moved.tolist() == pytest.approx([curve.weight_of_bend(place)] * 4)
        straight = kind.straight(Point(start), Point(end)).at(place).weights
        assert torch.allclose(straight, (1 - place) * start + place * end, rtol=1e-12)


def test_frozen_parameters_stay_on_the_line_and_statistics_of_the_batch_are_used(
    normalised_cnn: Callable[..., nn.Module], images: Any, classifier: Callable[..., Specimen]
) -> None:
    model, other = normalised_cnn(0), normalised_cnn(1)
    model.get_parameter("7.weight").requires_grad_(False)
    specimen = classifier(model, images)
    space = every_parameter(specimen)
    before = model_state(model)
    first, last = (from_state(specimen, space, network.state_dict()) for network in (model, other))
    straight = Bezier.straight(first, last)
    bent, losses = train_bend(specimen, space, straight, BendTraining(60, 23, 0.03), seeded(0))
    part = space.slices["7.weight"]
    assert torch.equal(bent.bend[part], straight.bend[part])
    assert not torch.equal(bent.bend[space.slices["0.weight"]], straight.bend[space.slices["0.weight"]])
    assert sum(losses[-20:]) < sum(losses[:20])
    assert same_state(before, model_state(model))


def test_training_that_diverges_is_said(height_map: Callable[..., Specimen]) -> None:
    specimen = height_map(valley)
    wild = BendTraining(200, 3, optimizer=lambda vectors: torch.optim.SGD(vectors, lr=1e6))
    with pytest.raises(NumericalError, match="The loss along the curve must stay finite; it did not at step"):
        train_bend(specimen, every_parameter(specimen), Bezier.straight(*ends(specimen)), wild, seeded(0))
    with pytest.raises(SettingError, match="positive steps, batch_size and lr; got 0, 64"):
        BendTraining(steps=0)
