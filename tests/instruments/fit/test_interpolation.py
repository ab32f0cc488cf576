"""Interpolation of the training data, and what happened after it."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from torchstone.details import Curve
from torchstone.instruments.fit.interpolation import Interpolation, errors_since, interpolation_epoch, judge
from torchstone.instruments.measurement import measure
from torchstone.objectives import Classification, Regression
from torchstone.reading import Level
from torchstone.recipe import Recipe
from torchstone.specimen import Specimen
from torchstone.workbench import Workbench


def separable(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Standard normal points on the two sides of a plane: separable whatever their number."""
    x = torch.randn(count, 20, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x, (x[:, :4].sum(1) > 0).long()


def logistic_run(steps: int = 4000) -> tuple[nn.Linear, dict[str, list[float]]]:
    """Full-batch gradient descent on 60 separable points in 20 dimensions, from zero."""
    (x, y), (test_x, test_y) = separable(60, 0), separable(2000, 1)
    model = nn.Linear(20, 2, bias=False).double()
    nn.init.zeros_(model.weight)
    history: dict[str, list[float]] = {"train_error": [], "test_error": [], "margin": []}
    for _ in range(steps):
        scores = model(x)
        gradient = torch.autograd.grad(nn.functional.cross_entropy(scores, y), model.weight)[0]
        with torch.no_grad():
            model.weight -= 0.1 * gradient
            scores = model(x)
            signed = (scores[:, 1] - scores[:, 0]) * (2 * y - 1)
            direction = (model.weight[1] - model.weight[0]).norm()
            history["train_error"].append(float((signed <= 0).double().mean()))
            history["margin"].append(float(signed.min() / direction))
            history["test_error"].append(float((model(test_x).argmax(1) != test_y).double().mean()))
    return model, history


def test_on_separable_data_the_margin_grows_after_interpolation_and_the_test_error_does_not() -> None:
    model, history = logistic_run()
    epoch = interpolation_epoch(history["train_error"])
    assert epoch is not None
    assert history["train_error"][epoch - 1] > 0
    after = torch.tensor(history["margin"][epoch:])
    assert bool((after.diff() >= -1e-6).all())
    assert float(after[-1]) > float(after[0])
    assert history["test_error"][-1] <= history["test_error"][epoch]
    specimen = Specimen(
        model, Classification(), separable(60, 0), separable(2000, 1), Recipe(history=history)
    )
    reading = measure(Interpolation(), Workbench.on(specimen))
    assert reading.value == 1
    assert reading.verdict.level is Level.GOOD
    assert f"epoch {epoch + 1}" in reading.headline
    marks = [detail.markers[0].value for detail in reading.details if isinstance(detail, Curve)]
    assert marks == [epoch + 1] * 2  # errors and margin


def test_without_a_history_only_the_present_is_reported() -> None:
    model = nn.Linear(20, 2, bias=False).double()
    nn.init.zeros_(model.weight)
    x, y = separable(60, 0)
    reading = measure(Interpolation(), Workbench.on(Specimen(model, Classification(), (x, y))))
    assert reading.value == pytest.approx(float((y == 0).double().mean()))  # ties go to class 0
    assert reading.verdict.level is Level.INFORMATIVE


def test_the_detector() -> None:
    assert interpolation_epoch([0.5, 0.0, 0.1, 0.0]) == 1
    assert interpolation_epoch([0.5, 0.1]) is None
    assert interpolation_epoch([]) is None
    assert interpolation_epoch([math.nan, 0.0]) == 1
    assert errors_since([0.3, 0.2, 0.25], 1) == (0.2, 0.25)
    assert errors_since([0.3], 1) is None
    assert errors_since([0.3], None) is None
    assert errors_since([0.3, math.nan], 0) is None


def test_judgement() -> None:
    # Two standard errors of the change from 10% to 20% on 120 examples are 2 sqrt(0.3 / 120) = 10%.
    assert judge(0, 3, (0.1, 0.2), 121).level is Level.ATTENTION
    assert judge(0, 3, (0.1, 0.2), 119).level is Level.GOOD
    assert judge(0, 3, (0.2, 0.1), 10**6).level is Level.GOOD
    assert "since epoch 4" in judge(0, 3, (0.1, 0.2), 10**4).reason  # counted from one, as in the headline
    for unknown in (judge(5, None, None, 400), judge(0, 3, None, 400), judge(0, 3, (0.1, 0.9), 0)):
        assert unknown.level is Level.INFORMATIVE
        assert "two standard errors" in unknown.threshold
        assert "Nakkiran" in unknown.source


def test_the_limit_is_rarely_passed_by_chance() -> None:
    """Two classifiers of equal risk on the same test set, whatever they share: at most 2.5% false alarms."""
    generator = torch.Generator().manual_seed(0)
    for shared in (0.0, 0.5, 0.9):
        alarms = 0
        for _ in range(1000):
            common = torch.rand(300, generator=generator) < shared * 0.2
            both = [common | (torch.rand(300, generator=generator) < 0.2 * (1 - shared)) for _ in range(2)]
            first, last = (float(wrong.double().mean()) for wrong in both)
            alarms += judge(0, 0, (first, last), 300).level is Level.ATTENTION
        assert stats.binomtest(alarms, 1000, 0.025, alternative="greater").pvalue > 0.01


def test_a_rise_is_told_with_its_epoch_and_remedies() -> None:
    model, history = logistic_run(steps=300)
    epoch = interpolation_epoch(history["train_error"])
    assert epoch is not None
    history["test_error"][-1] = 0.9
    specimen = Specimen(
        model, Classification(), separable(60, 0), separable(2000, 1), Recipe(history=history)
    )
    reading = measure(Interpolation(), Workbench.on(specimen))
    assert reading.verdict.level is Level.ATTENTION
    assert f"epoch {epoch + 1}" in reading.verdict.reason
    assert "rose by" in reading.headline
    assert reading.remedies


def test_the_share_and_its_interval() -> None:
    model = nn.Linear(20, 2, bias=False).double()
    nn.init.zeros_(model.weight)
    (x, y) = separable(60, 0)
    reading = measure(Interpolation(), Workbench.on(Specimen(model, Classification(), (x, y))))
    missed = int(y.sum())
    exact = stats.binomtest(60 - missed, 60).proportion_ci(0.95, method="exact")
    assert reading.uncertainty is not None
    assert (reading.uncertainty.low, reading.uncertainty.high) == pytest.approx((exact.low, exact.high))
    assert f"{missed} of 60" in reading.headline


def test_without_classes_it_is_not_asked() -> None:
    x = torch.ones(20, 1)
    reading = measure(Interpolation(), Workbench.on(Specimen(nn.Linear(1, 1), Regression(), (x, x))))
    assert reading.verdict.level is Level.NOT_APPLICABLE
