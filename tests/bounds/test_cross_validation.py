"""Nested cross-validation against scikit-learn by hand; choosing among noise; the convex baseline."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score

from torchstone.bounds.convex_baseline import convex_baseline
from torchstone.bounds.cross_validation import NestedScores, nested_cross_validation
from torchstone.errors import SettingError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_it_is_what_scikit_learn_does_with_these_folds() -> None:
    x = torch.randn(40, 3, generator=generator(1))
    y = x[:, 0] + 0.3 * torch.randn(40, generator=generator(2))
    grid = {"alpha": [0.1, 10.0, 1000.0]}
    found = nested_cross_validation(Ridge(), grid, x, y, generator(), outer=4, inner=3)
    seeds = torch.randint(2**31 - 1, (2,), generator=generator()).tolist()
    inner = KFold(3, shuffle=True, random_state=seeds[1])
    outer = KFold(4, shuffle=True, random_state=seeds[0])
    search = GridSearchCV(Ridge(), grid, cv=inner)
    expected = cross_val_score(search, x.double().numpy(), y.numpy(), cv=outer)
    assert found.scores == pytest.approx(tuple(expected))
    assert len(found.chosen) == 4
    assert all(one["alpha"] in grid["alpha"] for one in found.chosen)


def test_choosing_among_noise_looks_better_than_it_is() -> None:
    """Labels without any relation to the inputs: nested accuracy is chance, the best inner score above it."""
    nested, optimism = [], []
    for seed in range(8):
        x = torch.randn(80, 2, generator=generator(10 + seed))
        y = torch.randint(2, (80,), generator=generator(50 + seed))
        grid = {"random_state": list(range(12))}
        guesses = DummyClassifier(strategy="uniform")
        found = nested_cross_validation(guesses, grid, x, y, generator(seed), outer=4, inner=2)
        nested.append(found.mean)
        optimism.append(found.optimism)
    assert abs(np.mean(nested) - 0.5) < 3 * np.std(nested, ddof=1) / math.sqrt(8) + 0.02
    assert np.mean(optimism) > 0.04


def test_the_corrected_error() -> None:
    scores = NestedScores((0.8, 0.9, 0.7, 0.8), ({},) * 4, 0.9, train_share=3.0)
    spread = float(np.std([0.8, 0.9, 0.7, 0.8], ddof=1))
    assert scores.standard_error == pytest.approx(spread * math.sqrt(1 / 4 + 1 / 3))
    assert scores.mean == pytest.approx(0.8)
    assert scores.optimism == pytest.approx(0.1)


def test_the_same_seed_gives_the_same_folds_and_the_global_ones_are_left_alone() -> None:
    x, y = torch.randn(30, 2, generator=generator(3)), torch.randn(30, generator=generator(4))
    before, numpy_before = torch.get_rng_state(), str(np.random.get_state(legacy=False))  # noqa: NPY002
    runs = [nested_cross_validation(Ridge(), {"alpha": [1.0]}, x, y, generator(5), 3, 3) for _ in range(2)]
    assert runs[0] == runs[1]
    assert torch.equal(before, torch.get_rng_state())
    assert numpy_before == str(np.random.get_state(legacy=False))  # noqa: NPY002


def test_too_many_folds() -> None:
    x, y = torch.zeros(5, 1), torch.zeros(5)
    with pytest.raises(SettingError, match="outer"):
        nested_cross_validation(Ridge(), {"alpha": [1.0]}, x, y, generator(), outer=1)
    with pytest.raises(SettingError, match="two examples an outer fold"):
        nested_cross_validation(Ridge(), {"alpha": [1.0]}, x, y, generator(), outer=3)


def test_the_baseline_is_ridge_on_standardised_inputs() -> None:
    x = torch.randn(50, 3, generator=generator(6), dtype=torch.float64) * torch.tensor([1.0, 10.0, 0.1]) + 5
    y = x[:, 0] - x[:, 1]
    scaled = (x - x.mean(0)) / x.std(0, unbiased=False)
    weights = torch.linalg.solve(scaled.T @ scaled + 2 * torch.eye(3), scaled.T @ (y - y.mean()))
    model = convex_baseline("ridge", penalty=2.0).fit(x.numpy(), y.numpy())
    assert np.allclose(model.predict(x.numpy()), (scaled @ weights + y.mean()).numpy(), atol=1e-9)


def test_fourier_features_approximate_the_gaussian_kernel() -> None:
    x = torch.randn(12, 4, generator=generator(7), dtype=torch.float64).numpy()
    model = convex_baseline("ridge", fourier_features=20_000, scale=0.7, generator=generator(8))
    model.fit(x, np.zeros(12))
    mapped = model[:-1].transform(x)
    scaled = (x - x.mean(0)) / x.std(0)
    squared = ((scaled[:, None] - scaled[None]) ** 2).sum(-1)
    assert np.allclose(mapped @ mapped.T, np.exp(-squared / (2 * 0.49 * 4)), atol=0.04)


@pytest.mark.parametrize("fit", ["logistic", "ridge_classifier"])
def test_features_separate_what_lines_cannot(fit: str) -> None:
    x = torch.randn(300, 2, generator=generator(9))
    y = (x[:, 0] * x[:, 1] > 0).long()
    linear = convex_baseline(fit).fit(x.numpy(), y.numpy()).score(x.numpy(), y.numpy())
    curved = convex_baseline(fit, 200, penalty=0.1, generator=generator(10)).fit(x.numpy(), y.numpy())
    assert linear < 0.7
    assert curved.score(x.numpy(), y.numpy()) > 0.9


def test_mistakes_of_the_baseline() -> None:
    with pytest.raises(SettingError, match="fit must be one of"):
        convex_baseline("svm")
    with pytest.raises(SettingError, match="generator"):
        convex_baseline("ridge", fourier_features=10)
    with pytest.raises(SettingError, match="penalty"):
        convex_baseline("ridge", penalty=0.0)
