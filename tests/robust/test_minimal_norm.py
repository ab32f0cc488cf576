from __future__ import annotations

import functools
import math

import pytest
import torch
from torch import Tensor

from torchstone.errors import SettingError
from torchstone.robust import (
    Ball,
    apgd,
    deepfool,
    fast_minimum_norm,
    fgsm,
    lengths,
    margin,
    minimal_norm,
    misclassify,
    pgd,
    pull_back,
    robust_accuracy,
    robust_curve,
)

AXES = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)


def _ellipsoid(x: Tensor) -> Tensor:
    """Class 0 inside the ellipsoid, class 1 outside."""
    inside = 1 - (x / AXES).square().sum(dim=1)
    return torch.stack([inside, -inside], dim=1)


def _distance_to_ellipsoid(x: Tensor, norm: str) -> float:
    """The least perturbation that leaves the ellipsoid, by a general optimiser from many starts."""
    import numpy as np
    from scipy.optimize import brentq, minimize

    point, axes = x.numpy(), AXES.numpy()
    if norm == "linf":
        # Leaving is easiest at the corner of the cube that points away from the centre.
        away = np.where(point >= 0, 1.0, -1.0)
        root = brentq(lambda t: (((point + t * away) / axes) ** 2).sum() - 1, 0, 10, xtol=1e-14)
        return float(root)  # pyright: ignore[reportArgumentType]
    surface = {"type": "eq", "fun": lambda z: ((z / axes) ** 2).sum() - 1, "jac": lambda z: 2 * z / axes**2}
    found = []
    for start in np.random.default_rng(0).normal(size=(40, 3)):
        start = start / np.sqrt(((start / axes) ** 2).sum())
        solved = minimize(
            lambda z: ((z - point) ** 2).sum(),
            start,
            jac=lambda z: 2 * (z - point),
            constraints=surface,
            method="SLSQP",
            options={"ftol": 1e-15, "maxiter": 300},
        )
        if solved.success:
            found.append(math.sqrt(solved.fun))
    return min(found)


@pytest.fixture
def inside() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(25, 3, generator=generator, dtype=torch.float64)
    radius = torch.rand(25, 1, generator=generator, dtype=torch.float64)
    return direction / direction.norm(dim=1, keepdim=True) * radius * AXES


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_distances_to_a_curved_boundary(inside: Tensor, norm) -> None:
    expected = torch.tensor([_distance_to_ellipsoid(x, norm) for x in inside], dtype=torch.float64)
    labels = torch.zeros(25, dtype=torch.long)
    goal = misclassify(_ellipsoid, labels, margin)
    fast = fast_minimum_norm(_ellipsoid, labels, inside, norm=norm, steps=200)
    slow = minimal_norm(goal, inside, 2.0, norm=norm, attack=functools.partial(apgd, steps=60))
    newton = deepfool(_ellipsoid, labels, inside, norm=norm)
    for found in (fast, slow, newton):
        assert bool(found.success.all())
        # An upper bound, whatever the attack; the optimiser's own precision is 1e-7.
        assert bool((found.distances >= expected - 1e-6).all())
        assert torch.equal(_ellipsoid(found.inputs).argmax(1), 1 - labels)
    # The gradient leads to the nearest face from all but the points near the centre's plane of symmetry.
    for found in (fast, slow):
        assert float((found.distances / expected).median()) < 1.001
        assert float((found.distances / expected).mean()) < 1.02


def test_nothing_within_reach_is_infinitely_far(inside: Tensor) -> None:
    labels = torch.zeros(25, dtype=torch.long)
    goal = misclassify(_ellipsoid, labels, margin)
    found = minimal_norm(goal, inside, 0.05, norm="l2")
    assert 0 < int(found.success.sum()) < 25
    assert torch.equal(found.distances.isinf(), ~found.success)
    assert float(found.distances[found.success].max()) <= 0.05
    # A box inside the ellipsoid leaves no way out at all.
    boxed = fast_minimum_norm(_ellipsoid, labels, inside.clamp(-0.2, 0.2), bounds=(-0.2, 0.2))
    assert bool(boxed.distances.isinf().all())
    assert bool(
        deepfool(_ellipsoid, labels, inside.clamp(-0.2, 0.2), bounds=(-0.2, 0.2)).distances.isinf().all()
    )


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_coordinates_that_the_box_holds_do_not_count(norm) -> None:
    # Of 100 features one hardly matters, and it is the only one that may move.
    weight = torch.full((100,), 1.0, dtype=torch.float64)
    weight[0] = 0.2
    high = torch.zeros(100, dtype=torch.float64)
    high[0] = 10.0

    def logits(x: Tensor) -> Tensor:
        score = x @ weight - 1
        return torch.stack([-score, score], dim=1)

    labels, inputs = torch.tensor([0]), torch.zeros(1, 100, dtype=torch.float64)
    fast = fast_minimum_norm(logits, labels, inputs, norm=norm, bounds=(0.0, high))
    assert fast.distances.item() == pytest.approx(5.0, rel=1e-5)


def test_pulling_back_stops_at_the_first_crossing_it_brackets() -> None:
    goal = misclassify(lambda x: torch.cat([0 * x, x - 1], dim=1), torch.tensor([0, 0, 1]))
    inputs = torch.tensor([[0.0], [0.0], [0.0]], dtype=torch.float64)
    ball = Ball.around(inputs, math.inf, "l2")
    found = pgd(goal, inputs, torch.tensor([3.0, 0.5, 3.0]), norm="l2", steps=1)
    pulled = pull_back(goal, ball, found, tolerance=1e-9)
    assert pulled.distances[0].item() == pytest.approx(1.0, rel=1e-8)
    assert not pulled.success[1].item()  # untouched
    assert pulled.inputs[1].item() == found.inputs[1].item()
    assert pulled.distances[2].item() == 0.0  # wrong as it is
    assert torch.equal(pull_back(goal, ball, found, tolerance=math.inf).inputs, found.inputs)


@pytest.mark.parametrize("attack", [pgd, apgd, functools.partial(pgd, steps=1, step_size=0.01)])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_curve_is_monotone_for_any_attack(network, attack, norm) -> None:
    model = network(5, 30, 30, 4, seed=5)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(80, 5, generator=generator, dtype=torch.float64)
    labels = model(inputs).argmax(1)
    labels[:8] = (labels[:8] + 1) % 4
    goal = misclassify(model, labels)
    radii = [0.0, 0.02, 0.1, 0.3, 0.8, 2.0]
    curve = robust_curve(goal, inputs, radii, norm=norm, attack=functools.partial(attack, steps=3))
    assert curve.radii.tolist() == pytest.approx(radii)
    assert curve.accuracy[0].item() == 0.9
    assert bool((curve.accuracy.diff() <= 0).all())
    assert bool((curve.broken[1:] >= curve.broken[:-1]).all())
    assert bool((curve.losses.diff(dim=0) >= 0).all())
    assert bool((curve.accuracy == (~curve.broken).double().mean(dim=1)).all())
    # The inputs kept are those of the smallest radius that broke the example.
    wrong = model(curve.inputs).argmax(1) != labels
    assert torch.equal(wrong, curve.broken[-1])
    first = torch.tensor(radii)[curve.broken.double().argmax(dim=0)]
    away = lengths(curve.inputs - inputs, norm)
    assert bool((away[wrong] <= first[wrong] + 1e-6).all())


def test_the_curve_of_distances_counts_examples_further_than_the_radius() -> None:
    distances = torch.tensor([0.0, 0.1, 0.2, math.inf], dtype=torch.float64)
    assert robust_accuracy(distances, [0.0, 0.1, 0.15, 1e9]).tolist() == [0.75, 0.5, 0.5, 0.25]
    assert robust_accuracy(distances[:0], [0.0]).isnan().item()


def test_an_empty_batch_has_no_curve_but_no_error(network) -> None:
    model = network(5, 3)
    goal = misclassify(model, torch.zeros(0, dtype=torch.long))
    curve = robust_curve(goal, torch.zeros(0, 5, dtype=torch.float64), [0.0, 0.1])
    assert curve.broken.shape == (2, 0)
    assert bool(curve.accuracy.isnan().all())


@pytest.mark.parametrize("radii", [[], [0.1, 0.1], [0.2, 0.1], [0.1, math.nan]])
def test_radii_must_ascend(radii, network) -> None:
    goal = misclassify(network(2, 2), torch.tensor([0]))
    with pytest.raises(SettingError, match="radii must be ascending"):
        robust_curve(goal, torch.zeros(1, 2, dtype=torch.float64), radii)


def test_early_stopping_gives_the_same_accuracies(network) -> None:
    model = network(5, 20, 3, seed=1)
    inputs = torch.randn(50, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    goal = misclassify(model, model(inputs).argmax(1))
    full = robust_curve(goal, inputs, [0.0, 0.2, 2.0])
    hasty = robust_curve(goal, inputs, [0.0, 0.2, 2.0], until_broken=True)
    assert hasty.gradient_evaluations < full.gradient_evaluations
    assert torch.equal(full.accuracy[[0, 1]], hasty.accuracy[[0, 1]])


def test_one_step_is_a_ball_attack_of_its_own() -> None:
    goal = misclassify(_ellipsoid, torch.zeros(1, dtype=torch.long), margin)
    x = torch.tensor([[0.5, 0.1, 0.1]], dtype=torch.float64)
    assert fgsm(goal, x, 0.01, norm="l2").losses.item() <= pgd(goal, x, 0.01, norm="l2").losses.item() + 1e-12
