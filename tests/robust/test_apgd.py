from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from torchstone.robust import apgd, margin, misclassify, pgd, raise_loss, targeted_apgd
from torchstone.robust.apgd import checkpoints


def test_checkpoints_are_those_of_the_paper() -> None:
    for steps in (1, 5, 20, 33, 100, 1000):
        shares, last = [0.0, 0.22], 0.0
        while shares[-1] + max(shares[-1] - last - 0.03, 0.06) < 1:
            last, ahead = shares[-1], shares[-1] + max(shares[-1] - last - 0.03, 0.06)
            shares.append(ahead)
        expected = {math.ceil(round(share * steps, 9)) for share in shares[1:]}
        assert set(checkpoints(steps)) == expected
        assert list(checkpoints(steps)) == sorted(checkpoints(steps))


def _reference(losses, x: Tensor, eps: float, steps: int) -> tuple[float, list[float]]:
    """Algorithm 1 of the paper for one example, linf, written out with plain numbers."""

    def value(d: Tensor) -> tuple[float, Tensor]:
        leaf = (x + d).requires_grad_()
        loss = losses(leaf[None])[0]
        return float(loss.detach()), torch.autograd.grad(loss, leaf)[0]

    marks = [0, *checkpoints(steps)]
    size, d, previous = 2 * eps, torch.zeros_like(x), torch.zeros_like(x)
    loss, slope = value(d)
    best, best_d, best_slope = loss, d, slope
    history, rises = [loss], 0
    halved_then, best_then = False, -math.inf
    for k in range(steps):
        if k in marks[1:]:
            interval = k - marks[marks.index(k) - 1]
            halved = rises < 0.75 * interval or (not halved_then and best == best_then)
            if halved:
                size, d, slope = size / 2, best_d, best_slope
            halved_then, best_then, rises = halved, best, 0
        z = (d + size * slope.sign()).clamp(-eps, eps)
        alpha = 1.0 if k == 0 else 0.75
        ahead = (d + alpha * (z - d) + (1 - alpha) * (d - previous)).clamp(-eps, eps)
        previous, d = d, ahead
        new, slope = value(d)
        rises += new > history[-1]
        history.append(new)
        if new > best:
            best, best_d, best_slope = new, d, slope
    return best, history


@pytest.mark.parametrize("steps", [5, 30, 100])
def test_each_example_follows_algorithm_1(network, steps: int) -> None:
    model = network(4, 10, 10, 1, seed=2)
    losses = lambda x: (4 * model(x)[:, 0]).sin() + model(x)[:, 0]
    inputs = torch.randn(12, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = apgd(raise_loss(losses), inputs, 0.8, steps=steps)
    for row in range(12):
        best, history = _reference(losses, inputs[row], 0.8, steps)
        assert found.losses[row].item() == pytest.approx(best, rel=1e-9)
        assert found.losses_per_step[:, row].tolist() == pytest.approx(history, rel=1e-7)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_step_shrinks_onto_a_maximum_inside_the_ball(norm) -> None:
    top = torch.tensor([[0.3, -0.2], [0.05, 0.4]], dtype=torch.float64)
    goal = raise_loss(lambda x: -(x - top).square().sum(1))
    found = apgd(goal, torch.zeros(2, 2, dtype=torch.float64), 1.0, norm=norm, steps=100)
    # Eight checkpoints, each of which halves the first step of 2.
    assert float((found.inputs - top).abs().max()) <= 2 / 2**7
    fixed = pgd(goal, torch.zeros(2, 2, dtype=torch.float64), 1.0, norm=norm, steps=100, step_size=2.0)
    assert bool((found.losses > fixed.losses).all())


def test_the_targeted_attack_breaks_what_the_untargeted_one_runs_past() -> None:
    # The second class leads the others and never gets ahead within the ball; the third does, along another axis.
    def logits(x: Tensor) -> Tensor:
        zero = 0 * x[:, 0]
        return torch.stack([zero, 0.45 * x[:, 0] - 0.5, 2.2 * x[:, 1] - 2, zero - 3], dim=1)

    labels = torch.tensor([0])
    inputs = torch.zeros(1, 2, dtype=torch.float64)
    greedy = apgd(misclassify(logits, labels, margin), inputs, 1.0, norm="l2")
    assert not greedy.success.item()
    found = targeted_apgd(logits, labels, inputs, 1.0, norm="l2")
    assert found.success.item()
    assert found.losses.item() == pytest.approx(0.2, abs=1e-6)
    assert found.inputs.tolist()[0] == pytest.approx([0, 1], abs=1e-3)
    # It needs no more than the two targets up to the one that works.
    assert found.gradient_evaluations <= 200
    assert not targeted_apgd(logits, labels, inputs, 1.0, norm="l2", targets=1).success.item()
