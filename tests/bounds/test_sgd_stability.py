"""Stability bounds against their own derivations, done numerically, and against runs that attain or approach them."""

from __future__ import annotations

import math

import pytest
import torch

from torchstone.bounds.sgd_stability import (
    convex_stability,
    expansive_stability,
    nonconvex_stability,
    path_distance_bound,
    strongly_convex_stability,
)
from torchstone.errors import SettingError


def test_convex_bound_is_attained_by_linear_losses():
    """f(w; z) = <w, z> with the differing examples G u and -G u: single-example descent drifts by 2 alpha G a draw."""
    n, rates, lipschitz = 8, torch.tensor([0.3, 0.1, 0.2, 0.4], dtype=torch.float64), 1.5
    bound = convex_stability(rates, n, lipschitz, smoothness=1.0)
    # The expectation over draws of one index in n is the sum of the chances.
    drift = sum(2 * float(rate) * lipschitz / n for rate in rates)
    assert bound.distance == pytest.approx(drift, rel=1e-14)
    assert bound.value == pytest.approx(lipschitz * drift, rel=1e-14)


def test_strongly_convex_bound_is_the_sum_of_its_recursion():
    rate, n, lipschitz, gamma = 0.05, 30, 2.0, 0.7
    distance = 0.0
    for _ in range(40):  # contraction by 1 - rate gamma, and 2 rate G once in n steps
        distance = (1 - rate * gamma) * distance + 2 * rate * lipschitz / n
    bound = strongly_convex_stability(rate, n, lipschitz, 3.0, gamma, steps=40)
    assert bound.distance == pytest.approx(distance, rel=1e-12)
    limit = strongly_convex_stability(rate, n, lipschitz, 3.0, gamma)
    assert limit.value == pytest.approx(2 * lipschitz**2 / (gamma * n), rel=1e-14)
    assert limit.value == pytest.approx(
        strongly_convex_stability(rate, n, lipschitz, 3.0, gamma, steps=10**6).value, rel=1e-12
    )


def test_strongly_convex_bound_tends_to_the_convex_one_as_the_curvature_vanishes():
    steps = 50
    convex = convex_stability([0.1] * steps, 20, 1.0, 2.0)
    nearly = strongly_convex_stability(0.1, 20, 1.0, 2.0, 1e-9, steps=steps)
    assert nearly.value == pytest.approx(convex.value, rel=1e-6)


def test_one_step_of_rate_one_over_gamma_forgets_the_past():
    assert strongly_convex_stability(0.5, 10, 1.0, 2.0, 2.0, steps=7).value == pytest.approx(2 / (2 * 10))


@pytest.mark.parametrize("largest_loss", [1.0, 4.0])
def test_nonconvex_bound_is_the_best_time_of_the_first_draw(largest_loss):
    """The proof's bound M t0 / n + G delta(t0), with n - 1 in both, minimised over t0 on a grid."""
    c, steps, n, lipschitz, smoothness = 0.2, 500, 100, 1.7, 3.0
    growth = smoothness * c
    t0 = torch.linspace(0.1, steps, 200_001, dtype=torch.float64)
    risk = largest_loss * t0 / (n - 1)
    drift = 2 * lipschitz**2 / (smoothness * (n - 1)) * (steps / t0) ** growth
    bound = nonconvex_stability(c, steps, n, lipschitz, smoothness, largest_loss)
    assert bound.value == pytest.approx(float((risk + drift).min()), rel=1e-6)
    assert math.isnan(bound.distance)


def test_expansive_recursion_for_constant_steps_is_geometric():
    rate, n, lipschitz, smoothness, steps = 0.1, 25, 1.2, 2.0, 60
    ratio = (1 - 1 / n) * (1 + rate * smoothness) + 1 / n
    sum_of_series = 2 * rate * lipschitz / n * (ratio**steps - 1) / (ratio - 1)
    bound = expansive_stability([rate] * steps, n, lipschitz, smoothness)
    assert bound.distance == pytest.approx(sum_of_series, rel=1e-12)


def test_expansive_bound_without_curvature_is_the_convex_one_and_may_be_infinite():
    rates = [0.1, 0.2, 0.3]
    flat, convex = expansive_stability(rates, 9, 1.0, 0.0), convex_stability(rates, 9, 1.0, 1e-3)
    assert flat.value == pytest.approx(convex.value, rel=1e-14)
    assert expansive_stability([1.0] * 3000, 9, 1.0, 1.0).value == math.inf


def test_expansive_distance_bounds_nonconvex_runs():
    """f(w; z) = sin(w + z) is 1-Lipschitz and 1-smooth; the mean distance over all orders' draws stays below."""
    generator = torch.Generator().manual_seed(0)
    n, steps, runs, rate = 10, 40, 4000, 0.3
    z = torch.rand(n, generator=generator, dtype=torch.float64) * 6
    w = torch.zeros(2, runs, dtype=torch.float64)
    bounds = [expansive_stability([rate] * t, n, 1.0, 1.0).distance for t in range(1, steps + 1)]
    for t in range(steps):
        drawn = torch.randint(n, (runs,), generator=generator)
        twin = torch.where(drawn == 0, z[0] + math.pi, z[drawn])
        w = w - rate * torch.cos(w + torch.stack([z[drawn], twin]))
        assert float((w[0] - w[1]).abs().mean()) <= bounds[t]


def test_path_bound_counts_draws():
    rates = torch.tensor([0.5, 0.25, 0.125])
    shares = torch.tensor([[0, 1, 1], [1, 0, 0]])
    bound = path_distance_bound(rates, shares, 3.0)
    assert bound.tolist() == [[0.0, 1.5, 2.25], [3.0, 3.0, 3.0]]
    full = path_distance_bound(rates, torch.full((3,), 1 / 20), 3.0)
    assert float(full[-1]) == pytest.approx(convex_stability(rates, 20, 3.0, 1.0).distance)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: convex_stability([0.6], 10, 1.0, 4.0), "step sizes of at most 2 / smoothness = 0.5"),
        (lambda: convex_stability([], 10, 1.0, 4.0), "at least one positive finite step size"),
        (lambda: convex_stability([0.1, -0.1], 10, 1.0, 4.0), "at least one positive finite step size"),
        (lambda: convex_stability([0.1, math.nan], 10, 1.0, 4.0), "at least one positive finite step size"),
        (lambda: convex_stability([0.1], 0, 1.0, 4.0), "n must be a whole number"),
        (lambda: convex_stability([0.1], 10, -1.0, 4.0), "lipschitz must be finite"),
        (lambda: convex_stability([0.1], 10, 1.0, 0.0), "smoothness must be finite and above"),
        (lambda: strongly_convex_stability(0.3, 10, 1.0, 4.0, 0.1), "step sizes of at most 1 / smoothness"),
        (lambda: strongly_convex_stability(0.1, 10, 1.0, 4.0, 5.0), "convexity must be at most smoothness"),
        (lambda: strongly_convex_stability(0.1, 10, 1.0, 4.0, 0.0), "convexity must be finite and above"),
        (lambda: strongly_convex_stability(0.1, 10, 1.0, 4.0, 1.0, steps=0), "steps must be a whole number"),
        (lambda: nonconvex_stability(0.0, 10, 10, 1.0, 1.0), "constant must be finite and above"),
        (lambda: nonconvex_stability(0.1, 10, 1, 1.0, 1.0), "n must be a whole number of at least 2"),
        (lambda: nonconvex_stability(0.1, 10, 10, 1.0, 1.0, 0.0), "largest_loss must be finite and above"),
        (lambda: expansive_stability([0.1], 10, 1.0, -1.0), "smoothness must be finite"),
        (lambda: path_distance_bound(torch.ones(3), torch.ones(2), 1.0), "for each of 3 steps"),
        (lambda: path_distance_bound(torch.ones(2), torch.tensor([0.5, 1.5]), 1.0), "one number in"),
    ],
)
def test_assumptions_are_checked(call, message):
    with pytest.raises(SettingError, match=message):
        call()
