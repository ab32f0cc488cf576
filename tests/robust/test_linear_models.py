"""Every attack against closed forms: a logistic model, whose worst loss and distance are known exactly."""

from __future__ import annotations

import functools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from torchstone.robust import (
    apgd,
    cross_entropy,
    deepfool,
    fast_minimum_norm,
    fgsm,
    lengths,
    margin,
    minimal_norm,
    misclassify,
    misclassify_towards,
    pgd,
    pull_back,
    reach_class,
    robust_accuracy,
    robust_curve,
    strongest,
    targeted_margin,
)
from torchstone.robust.ball import Ball

NORMS = ["linf", "l2"]
EPS = [0.0, 0.05, 0.3, 2.0]


def _dual(weight: Tensor, norm: str) -> float:
    return float(weight.abs().sum() if norm == "linf" else weight.norm())


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


ATTACKS = {
    "fgsm": fgsm,
    "pgd from the inputs": pgd,
    "pgd from random points, long steps": functools.partial(pgd, step_size=4.0, restarts=2),
    "apgd from the inputs": apgd,
    "apgd from random points": functools.partial(apgd, restarts=2),
}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("eps", EPS)
@pytest.mark.parametrize("loss", [cross_entropy, margin])
@pytest.mark.parametrize("name", ATTACKS)
def test_the_worst_loss_is_that_of_the_dual_norm(two_classes, norm, eps: float, loss, name: str) -> None:
    attack = ATTACKS[name]
    options = {"generator": _generator()} if "random" in name else {}
    found = attack(misclassify(two_classes.logits, two_classes.labels, loss), two_classes.inputs, eps, norm=norm, **options)  # fmt: skip
    worst = two_classes.lead(two_classes.inputs) - eps * _dual(two_classes.weight, norm)
    expected = F.softplus(-worst) if loss is cross_entropy else -worst
    assert torch.allclose(found.losses, expected, atol=1e-6, rtol=0)
    assert torch.equal(found.success, worst < 0)
    assert bool((found.distances <= eps + 1e-12).all())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("attack", [fgsm, pgd, functools.partial(pgd, step_size=4.0), apgd])
def test_the_worst_loss_in_a_box_is_the_linear_programmes(two_classes, norm, attack) -> None:
    from scipy.optimize import minimize

    eps = 0.35
    goal = misclassify(two_classes.logits, two_classes.labels, margin)
    found = attack(goal, two_classes.inputs, eps, norm=norm, bounds=(0.0, 1.0))
    assert float(found.inputs.min()) >= 0
    assert float(found.inputs.max()) <= 1
    for row in range(12):
        x = two_classes.inputs[row].numpy()
        w = two_classes.weight.numpy() * (1 - 2 * int(two_classes.labels[row]))
        inside = {"type": "ineq", "fun": lambda d: eps**2 - d @ d, "jac": lambda d: -2 * d}
        low, high = -x, 1 - x
        if norm == "linf":
            low, high = low.clip(-eps), high.clip(max=eps)
        best = minimize(
            lambda d, w=w: -(w @ d),
            0 * x,
            jac=lambda _, w=w: -w,
            bounds=list(zip(low, high, strict=True)),
            constraints=() if norm == "linf" else inside,
            method="SLSQP",
            options={"ftol": 1e-15},
        )
        clean = float(-two_classes.lead(two_classes.inputs)[row])
        assert float(found.losses[row]) == pytest.approx(clean - best.fun, abs=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_deepfool_goes_to_the_boundary(two_classes, norm) -> None:
    expected = two_classes.lead(two_classes.inputs) / _dual(two_classes.weight, norm)
    logits, labels, inputs = two_classes.logits, two_classes.labels, two_classes.inputs
    exact = deepfool(logits, labels, inputs, norm=norm, overshoot=1e-9)
    assert torch.allclose(exact.distances, expected, atol=1e-6, rtol=0)
    usual = deepfool(logits, labels, inputs, norm=norm)
    assert torch.allclose(usual.distances, 1.02 * expected, rtol=1e-9)
    goal = misclassify(logits, labels, margin)
    pulled = pull_back(goal, Ball.around(inputs, math.inf, norm), usual, tolerance=1e-9)
    assert torch.allclose(pulled.distances, expected, atol=1e-6, rtol=0)
    for found in (exact, usual, pulled):
        assert bool(found.success.all())
        assert torch.equal(logits(found.inputs).argmax(1), 1 - labels)
        assert torch.allclose(lengths(found.inputs - inputs, norm), found.distances)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("classes", [3, 7])
def test_deepfool_is_exact_for_affine_networks_of_many_classes(norm, classes: int) -> None:
    generator = torch.Generator().manual_seed(classes)
    weight = torch.randn(classes, 5, generator=generator, dtype=torch.float64)
    inputs = torch.randn(60, 5, generator=generator, dtype=torch.float64)
    labels = (inputs @ weight.T).argmax(1)
    found = deepfool(lambda x: x @ weight.T, labels, inputs, norm=norm, overshoot=1e-9)
    expected = torch.empty(60, dtype=torch.float64)
    for row, (x, y) in enumerate(zip(inputs, labels.tolist(), strict=True)):
        ways = [
            float((weight[y] - weight[c]) @ x) / _dual(weight[y] - weight[c], norm)
            for c in range(classes)
            if c != y
        ]
        expected[row] = min(ways)
    assert torch.allclose(found.distances, expected, atol=1e-6, rtol=0)
    assert bool(found.success.all())


@pytest.mark.parametrize("norm", NORMS)
def test_minimal_norms_are_the_distances_to_the_hyperplane(two_classes, norm) -> None:
    expected = two_classes.lead(two_classes.inputs) / _dual(two_classes.weight, norm)
    logits, labels, inputs = two_classes.logits, two_classes.labels, two_classes.inputs
    fast = fast_minimum_norm(logits, labels, inputs, norm=norm, steps=20)
    assert torch.allclose(fast.distances, expected, atol=0, rtol=1e-5)
    for loss in (margin, cross_entropy):
        goal = misclassify(logits, labels, loss)
        slow = minimal_norm(goal, inputs, 5.0, norm=norm, attack=functools.partial(pgd, steps=5))
        assert torch.allclose(slow.distances, expected, atol=0, rtol=1e-5)
    # Bisection over the radius alone, without the search along the segment, closes in by halves.
    plain = minimal_norm(
        goal, inputs, 5.0, norm=norm, attack=fgsm_as_ball_attack, bisections=30, tolerance=math.inf
    )
    assert torch.allclose(plain.distances, expected, atol=0, rtol=1e-5)


def fgsm_as_ball_attack(goal, inputs, eps, *, norm, bounds, start, until_broken):
    return fgsm(goal, inputs, eps, norm=norm, bounds=bounds)


@pytest.mark.parametrize("norm", NORMS)
def test_the_robust_curve_is_the_distribution_of_distances(two_classes, norm) -> None:
    distances = two_classes.lead(two_classes.inputs) / _dual(two_classes.weight, norm)
    radii = [0.0, *torch.linspace(0.01, float(distances.max()) * 1.1, 9).tolist()]
    goal = misclassify(two_classes.logits, two_classes.labels)
    curve = robust_curve(goal, two_classes.inputs, radii, norm=norm)
    expected = torch.stack([(distances > eps).double().mean() for eps in radii])
    assert torch.equal(curve.accuracy, expected)
    assert torch.equal(robust_accuracy(distances, radii), expected)
    assert curve.accuracy[0] == 1
    assert curve.accuracy[-1] == 0
    losses = F.softplus(-(two_classes.lead(two_classes.inputs)[None] - torch.tensor(radii)[:, None] * _dual(two_classes.weight, norm)))  # fmt: skip
    assert torch.allclose(curve.losses, losses, atol=1e-6, rtol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_targeted_attacks_reach_the_exact_margin_of_each_class(norm) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    inputs = torch.randn(30, 5, generator=generator, dtype=torch.float64)
    labels = (inputs @ weight.T).argmax(1)
    eps = 0.4

    def logits(x: Tensor) -> Tensor:
        return x @ weight.T

    def lead_of_target(z: Tensor, y: Tensor, t: Tensor) -> Tensor:
        return (z.gather(1, t[:, None]) - z.gather(1, y[:, None])).squeeze(1)

    results, worst = [], torch.full((30,), -torch.inf, dtype=torch.float64)
    for shift in (1, 2, 3):
        targets = (labels + shift) % 4
        goal = misclassify_towards(logits, labels, targets, lead_of_target)
        results.append(pgd(goal, inputs, eps, norm=norm))
        slope = weight[targets] - weight[labels]
        dual = slope.abs().sum(1) if norm == "linf" else slope.norm(dim=1)
        exact = (slope * inputs).sum(1) + eps * dual
        assert torch.allclose(results[-1].losses, exact, atol=1e-6, rtol=0)
        worst = torch.maximum(worst, exact)
    # The union over targets is the exact robust accuracy of an affine network.
    assert torch.equal(strongest(*results).success, worst > 0)


def test_reaching_a_class_wins_only_at_that_class() -> None:
    weight = torch.eye(3, dtype=torch.float64)
    inputs = torch.tensor([[1.0, 0.5, 0.0]], dtype=torch.float64)
    goal = reach_class(lambda x: x @ weight, torch.tensor([2]), targeted_margin)
    near, far = pgd(goal, inputs, 0.4), pgd(goal, inputs, 0.6)
    assert (near.success.item(), far.success.item()) == (False, True)
    assert far.losses.item() == pytest.approx(0.2, abs=1e-9)
