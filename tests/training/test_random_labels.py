"""Fitting random labels: the capacity against exact enumeration, its limit's coverage, and epochs to fit."""

from __future__ import annotations

import itertools

import pytest
import torch

from torchstone.errors import SettingError
from torchstone.training.random_labels import epochs_to_fit, fitted_random_labels, random_labels


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_labels_are_uniform_and_independent() -> None:
    labels = random_labels(500, 4, 40, seeded(0))
    assert labels.shape == (40, 500)
    counts = torch.bincount(labels.flatten(), minlength=4).double()
    assert float(((counts - 5000) ** 2 / 5000).sum()) < 16.3  # chi square with 3 degrees of freedom, 0.1%
    agree = (labels[0] == labels[1]).double().mean()
    assert float(agree) == pytest.approx(0.25, abs=0.07)


@pytest.mark.parametrize("classes", [2, 3])
def test_capacity_of_a_finite_class_and_its_limit(classes: int) -> None:
    """The best member of a class of five functions on four points, over all labels and over drawn ones."""
    n, members = 4, torch.randint(classes, (5, 4), generator=seeded(1))
    best = lambda labels: (members[:, None] == labels).double().mean(2).amax(0)
    every = torch.tensor(list(itertools.product(range(classes), repeat=n)))
    capacity = float((classes * best(every) - 1).mean() / (classes - 1))
    means, above = [], 0
    for seed in range(2000):
        found = fitted_random_labels(best(random_labels(n, classes, 3, seeded(10 + seed))), n, classes)
        means.append(found.value)
        above += found.lower <= capacity
    values = torch.tensor(means)
    assert float(values.mean()) == pytest.approx(capacity, abs=4 * float(values.std()) / len(values) ** 0.5)
    assert above / 2000 >= 0.95


def test_two_classes_are_the_rademacher_complexity() -> None:
    """sup (1/n) sum sigma h for h in {+-1} is 2 a - 1."""
    found = fitted_random_labels(torch.tensor([0.8]), 50, 2)
    assert found.value == pytest.approx(2 * 0.8 - 1)
    assert found.lower < found.value


def test_a_fixed_function_has_capacity_zero_and_all_fitted_is_one() -> None:
    assert fitted_random_labels(torch.tensor([0.1], dtype=torch.float64), 100, 10).value == pytest.approx(0.0)
    assert fitted_random_labels(torch.ones(3), 100, 10).value == 1.0


def test_epochs_to_fit() -> None:
    course = torch.tensor([[0.5, 0.9, 0.8, 1.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.1, 0.2, 0.89]])
    assert epochs_to_fit(course, 0.9).tolist()[:2] == [2.0, 1.0]
    assert epochs_to_fit(course, 0.9)[2].isnan()


@pytest.mark.parametrize(
    ("accuracies", "count", "classes", "confidence"),
    [
        (torch.tensor([1.2]), 10, 2, 0.95),
        (torch.tensor([torch.nan]), 10, 2, 0.95),
        (torch.zeros(0), 10, 2, 0.95),
        (torch.ones(2), 0, 2, 0.95),
        (torch.ones(2), 10, 1, 0.95),
        (torch.ones(2), 10, 2, 1.0),
    ],
)
def test_mistakes_are_named(accuracies: torch.Tensor, count: int, classes: int, confidence: float) -> None:
    with pytest.raises(SettingError, match="Needs accuracies"):
        fitted_random_labels(accuracies, count, classes, confidence)


@pytest.mark.parametrize(("count", "classes", "draws"), [(0, 2, 1), (3, 1, 1), (3, 2, 0)])
def test_no_labels_to_draw(count: int, classes: int, draws: int) -> None:
    with pytest.raises(SettingError, match="Random labels need"):
        random_labels(count, classes, draws, seeded(0))
