"""Thresholds on a grid under a known law: every quantity is enumerated."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from torchstone.bounds.decomposition import (
    bayes_risk_of_law,
    empirical_risks,
    risk_decomposition,
    risks_under_law,
)
from torchstone.errors import NumericalError, SettingError

POINTS = 200


def law(generator: torch.Generator) -> Tensor:
    """A density on the grid whose conditional probability crosses 1/2 three times: no threshold is Bayes."""
    x = torch.linspace(0, 1, POINTS, dtype=torch.float64)
    eta = 0.5 + 0.45 * torch.sin(3 * math.pi * x)
    density = 0.2 + torch.rand(POINTS, generator=generator, dtype=torch.float64)
    density = density / density.sum()
    return torch.stack([density * (1 - eta), density * eta], dim=1)


def thresholds() -> Tensor:
    """h_t(x) = [x >= t] for every t of the grid and beyond its end."""
    grid = torch.arange(POINTS)
    return (grid[None, :] >= torch.arange(POINTS + 1)[:, None]).long()


def draw(joint: Tensor, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    cells = torch.multinomial(joint.flatten(), n, replacement=True, generator=generator)
    return cells // 2, cells % 2


def test_parts_are_non_negative_and_add_up_for_every_threshold() -> None:
    generator = torch.Generator().manual_seed(1)
    joint, predictors = law(generator), thresholds()
    risks, bayes = risks_under_law(predictors, joint), bayes_risk_of_law(joint)
    gains = 0
    for n in (1, 5, 50, 5000):
        sample = empirical_risks(predictors, *draw(joint, n, generator))
        for trained in range(len(predictors)):
            parts = risk_decomposition(bayes, risks, sample, float(risks[trained]))
            three = (parts.approximation, parts.estimation, parts.optimisation)
            assert min(three) >= 0
            assert abs(sum(three) - (float(risks[trained]) - bayes)) < 1e-12
            textbook = (
                parts.estimation + parts.regularisation_gain,
                parts.optimisation - parts.regularisation_gain,
            )
            assert textbook[0] == pytest.approx(parts.erm_risk - parts.best_in_class_risk, abs=1e-12)
            assert textbook[1] == pytest.approx(parts.trained_risk - parts.erm_risk, abs=1e-12)
            gains += parts.regularisation_gain > 0
    # The textbook's optimisation error is negative for some of these, so the distinction is not idle.
    assert gains > 0


def test_the_approximation_error_does_not_depend_on_the_sample() -> None:
    generator = torch.Generator().manual_seed(2)
    joint, predictors = law(generator), thresholds()
    risks, bayes = risks_under_law(predictors, joint), bayes_risk_of_law(joint)
    found = set()
    for _ in range(5):
        sample = empirical_risks(predictors, *draw(joint, 20, generator))
        found.add(risk_decomposition(bayes, risks, sample, float(risks.max())).approximation)
    assert found == {float(risks.min()) - bayes}
    assert found.pop() > 0.01


def test_risks_agree_with_a_direct_sum_and_with_a_large_sample() -> None:
    generator = torch.Generator().manual_seed(3)
    joint = law(generator)
    predictors = torch.stack([thresholds()[70], joint.argmax(dim=1)])
    risks = risks_under_law(predictors, joint)
    for predictor, risk in zip(predictors, risks, strict=True):
        direct = sum(float(joint[x, 1 - predictor[x]]) for x in range(POINTS))
        assert float(risk) == pytest.approx(direct, abs=1e-14)
    assert float(risks[1]) == pytest.approx(bayes_risk_of_law(joint), abs=1e-14)
    n = 200_000
    seen = empirical_risks(predictors, *draw(joint, n, generator))
    assert bool(((seen - risks).abs() < 4 * (risks * (1 - risks) / n).sqrt()).all())


def test_an_empirical_minimiser_has_no_optimisation_error_when_several_tie() -> None:
    risks, sample = torch.tensor([0.1, 0.3, 0.2]), torch.tensor([0.5, 0.0, 0.0])
    for trained in (0.2, 0.3):
        parts = risk_decomposition(0.0, risks.double(), sample, trained)
        assert parts.optimisation == pytest.approx(0.0, abs=1e-7)
        assert parts.estimation == pytest.approx(trained - 0.1, abs=1e-7)


def test_impossible_risks_are_refused() -> None:
    risks, sample = torch.tensor([0.2, 0.3]), torch.tensor([0.1, 0.2])
    with pytest.raises(SettingError, match="must be ordered"):
        risk_decomposition(0.1, risks, sample, 0.15)
    with pytest.raises(SettingError, match="must be ordered"):
        risk_decomposition(0.25, risks, sample, 0.3)
    with pytest.raises(SettingError, match="shape \\(H,\\)"):
        risk_decomposition(0.1, risks, sample[:1], 0.3)
    with pytest.raises(SettingError, match="shape \\(H,\\)"):
        risk_decomposition(0.1, risks[:0], sample[:0], 0.3)
    with pytest.raises(NumericalError, match="finite"):
        risk_decomposition(0.1, risks, sample * math.nan, 0.3)
    with pytest.raises(SettingError, match="sum to 1"):
        bayes_risk_of_law(torch.ones(3, 2))
    with pytest.raises(SettingError, match="shape \\(H, 3\\)"):
        risks_under_law(torch.zeros(1, 4, dtype=torch.long), torch.full((3, 2), 1 / 6, dtype=torch.float64))
    with pytest.raises(SettingError, match="n >= 1"):
        empirical_risks(thresholds(), torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long))
