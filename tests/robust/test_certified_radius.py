"""Certificates below, attacks above, and both exact on a linear network."""

from __future__ import annotations

import math

import pytest
import torch

from torchstone.bounds.dense import DenseLayer
from torchstone.bounds.margin import margins
from torchstone.errors import SettingError
from torchstone.robust import fast_minimum_norm, minimal_norm, misclassify, robust_accuracy
from torchstone.robust.certified_radius import certified_radius


def test_lower_and_upper_bounds_of_200_points_are_in_order_and_the_curve_falls() -> None:
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64) / shape[-1] ** 0.5
    first, second = draw(32, 8), draw(4, 32)
    scores = lambda x: torch.relu(x @ first.T) @ second.T
    x = torch.randn(200, 8, generator=generator, dtype=torch.float64)
    y = scores(x).argmax(1)
    lipschitz = DenseLayer(first).norm_bound() * DenseLayer(second).norm_bound()
    lower = certified_radius(margins(scores(x), y), lipschitz)
    upper = fast_minimum_norm(scores, y, x, norm="l2").distances
    assert bool((lower <= upper).all())
    assert bool((lower > 0).all())
    curve = robust_accuracy(upper, [0.0, 0.1, 0.2, 0.5, 1.0, 2.0])
    assert bool((curve.diff() <= 0).all())


def test_on_a_linear_network_both_are_the_distance_to_the_boundary() -> None:
    generator = torch.Generator().manual_seed(1)
    w = torch.randn(6, generator=generator, dtype=torch.float64)
    x = torch.randn(50, 6, generator=generator, dtype=torch.float64)
    scores = lambda z: torch.stack([-(z @ w), z @ w], dim=1)
    y = scores(x).argmax(1)
    exact = (x @ w).abs() / w.norm()
    lower = certified_radius(margins(scores(x), y), math.sqrt(2) * float(w.norm()))
    upper = minimal_norm(misclassify(scores, y), x, 10.0, norm="l2").distances
    assert torch.allclose(lower, exact, atol=1e-12)
    assert torch.allclose(upper.double(), exact, atol=1e-5)


def test_misclassified_examples_have_radius_zero_and_constants_are_checked() -> None:
    assert certified_radius(torch.tensor([-1.0, 0.0]), 2.0).tolist() == [0.0, 0.0]
    with pytest.raises(SettingError, match="positive and finite"):
        certified_radius(torch.ones(1), 0.0)
