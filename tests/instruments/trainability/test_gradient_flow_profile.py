"""The line through log gradients over depth: its slope, its error bar, and gradients that are zero or infinite."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from torchstone.init.mean_field import fixed_point, gradient_factor
from torchstone.instruments.trainability.gradient_flow import Profile, judge
from torchstone.objectives import Regression
from torchstone.reading import Level
from torchstone.specimen import Specimen
from torchstone.workbench.signals import backward_signals


def test_the_error_bar_is_that_of_the_mean_over_examples() -> None:
    squared = torch.exp(torch.randn(50, 6, generator=torch.Generator().manual_seed(7), dtype=torch.float64))
    profile = Profile.of(list("abcdef"), squared)
    assert profile is not None
    slopes = np.polyfit(np.arange(6), squared.log().numpy().T, 1)[0]
    assert profile.change == pytest.approx(-5 * slopes.mean())
    assert profile.standard_error == pytest.approx(5 * slopes.std(ddof=1) / math.sqrt(50))


def test_examples_without_a_gradient_are_left_out_and_said() -> None:
    squared = torch.ones(4, 3)
    squared[0] = 0
    profile = Profile.of(["a", "b", "c"], squared)
    assert profile is not None
    assert profile.zero == 0.25
    assert profile.blocked == 0
    assert Profile.of(["a"], torch.ones(4, 1)) is None
    assert Profile.of(["a", "b"], torch.zeros(4, 2)) is None


def test_each_line_goes_through_the_columns_that_have_a_gradient() -> None:
    """Zeros after a sequence's end and at branches that start at zero are left out; positions stay what they are."""
    generator = torch.Generator().manual_seed(8)
    squared = torch.exp(torch.randn(30, 7, generator=generator, dtype=torch.float64))
    squared[:, 3] = 0
    squared[:10, 5:] = 0
    profile = Profile.of(list("abcdefg"), squared)
    assert profile is not None
    changes = []
    for row in squared.numpy():
        used = np.flatnonzero(row)
        changes.append(-np.polyfit(used, np.log(row[used]), 1)[0] * used[-1])
    assert profile.change == pytest.approx(np.mean(changes))
    assert profile.standard_error == pytest.approx(np.std(changes, ddof=1) / math.sqrt(30))
    assert profile.skipped == ("d",)
    assert profile.names == tuple("abcefg")
    assert profile.means[3] == pytest.approx(float(squared[:, 4].log().mean()))
    assert profile.means[5] == pytest.approx(float(squared[10:, 6].log().mean()))


def test_gradients_that_are_exactly_zero_at_the_first_layer_have_vanished() -> None:
    squared = torch.ones(10, 3)
    squared[:4, :2] = 0
    some = Profile.of(["a", "b", "c"], squared)
    assert some is not None
    assert (some.change, some.blocked) == (0.0, 0.4)
    squared[:6, :2] = 0
    most = Profile.of(["a", "b", "c"], squared)
    assert most is not None
    assert most.change == -math.inf
    squared[:, :2] = 0
    every = Profile.of(["a", "b", "c"], squared)
    assert every is not None
    assert (every.change, every.blocked, every.names) == (-math.inf, 1.0, ("c",))


def test_gradients_that_overflow_explode() -> None:
    squared = torch.ones(10, 3)
    squared[:6, 0] = math.inf
    squared[5, 0] = math.nan
    profile = Profile.of(["a", "b", "c"], squared)
    assert profile is not None
    assert profile.change == math.inf
    assert judge(profile.change).level is Level.POOR


def test_a_random_tanh_network_decays_as_mean_field_theory_says() -> None:
    """Fitted slope over 40 layers of width 600 against log chi, within 5%, averaged over 4 draws."""
    width, weight_variance, bias_variance = 600, 1.2, 0.3
    q = fixed_point(torch.tanh, weight_variance, bias_variance)
    expected = math.log(gradient_factor(torch.tanh, q, weight_variance))
    slopes = []
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        layers: list[nn.Module] = []
        for _ in range(40):
            layers += [nn.Linear(width, width), nn.Tanh()]
        model = nn.Sequential(*layers, nn.Linear(width, 1))
        with torch.no_grad():
            for layer in model.modules():
                if isinstance(layer, nn.Linear):
                    layer.weight.copy_(
                        torch.randn(layer.weight.shape, generator=generator)
                        * (weight_variance / width) ** 0.5
                    )
                    layer.bias.copy_(torch.randn(layer.bias.shape, generator=generator) * bias_variance**0.5)
        x = math.sqrt(q) * torch.randn(8, width, generator=generator)
        squared = backward_signals(Specimen(model, Regression(), (x, torch.ones(8, 1)))).layers
        profile = Profile.of(list(squared)[:40], torch.stack(list(squared.values())[:40], dim=1))
        assert profile is not None
        slopes.append(profile.change / 39)
    assert sum(slopes) / 4 == pytest.approx(expected, rel=0.05)
