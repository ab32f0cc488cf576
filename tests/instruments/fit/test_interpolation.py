"""Interpolation of the training data, and what happened after it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from torchstone.details import Curve
from torchstone.instruments.fit.interpolation import Interpolation, change_after, interpolation_epoch, judge
from torchstone.instruments.measurement import measure
from torchstone.objectives import Classification
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
    assert change_after([0.3, 0.2, 0.25], 1) == pytest.approx(0.05)
    assert change_after([0.3], 1) is None
    assert change_after([0.3], None) is None


def test_judgement() -> None:
    assert judge(0, 3, 0.2, 400).level is Level.ATTENTION
    assert judge(0, 3, 0.04, 400).level is Level.GOOD  # within two standard errors, 1/sqrt(400)
    assert judge(0, 3, -0.2, 400).level is Level.GOOD
    assert judge(5, None, None, 400).level is Level.INFORMATIVE
