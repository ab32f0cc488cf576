"""The empirical Fisher matrix and the covariance of gradients against single examples' gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone import Specimen
from torchstone.objectives import Classification, Regression
from torchstone.operators import Fisher, GradientCovariance
from torchstone.testing import (
    dense_fisher,
    dense_gradient_covariance,
    per_example_gradients,
)

Sampled = Callable[..., Fisher]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def error(measured: Tensor, exact: Tensor) -> float:
    return float((measured.double() - exact).norm() / exact.norm())


ALL = (
    "tanh mlp",
    "relu regression",
    "batch norm cnn",
    "tied",
    "unused and frozen",
    "lstm",
    "gru",
    "attention",
    "transformer",
    "linear",
)


@pytest.mark.parametrize(
    ("name", "memory_bytes"), [*((name, 2**29) for name in ALL), ("tanh mlp", 0), ("attention", 0)]
)
def test_empirical_and_covariance_are_those_of_single_examples(
    name: str, memory_bytes: int, awkward: Any
) -> None:
    specimen = awkward(name).specimen
    F = Fisher(specimen, "empirical", memory_bytes=memory_bytes).to_dense(block=9)
    assert error(F, dense_fisher(specimen, "empirical")) < 1e-12
    C = GradientCovariance(specimen, memory_bytes=memory_bytes).to_dense(block=9)
    assert error(C, dense_gradient_covariance(specimen)) < 1e-11
    second, v = GradientCovariance(specimen, centred=False), randn(len(F), seed=8)
    assert error(second.matvec(v), F @ v) < 1e-13


def test_where_the_data_are_fitted_the_empirical_one_vanishes_and_the_true_one_does_not(
    randomised: Any,
) -> None:
    x = randn(8, 3)
    model = randomised(nn.Linear(3, 1))
    with torch.no_grad():
        specimen = Specimen(model, Regression(), (x, model(x)))
    assert float(Fisher(specimen, "empirical").to_dense().norm()) == 0
    assert float(GradientCovariance(specimen).to_dense().norm()) == 0
    assert float(Fisher(specimen).to_dense().norm()) > 0.5


def test_the_empirical_one_estimates_the_true_one_where_labels_follow_the_model(randomised: Any) -> None:
    x = randn(20_000, 2)
    model = randomised(nn.Linear(2, 3))
    with torch.no_grad():
        y = torch.multinomial(model(x).softmax(1), 1, generator=seeded(4))[:, 0]
    right = Specimen(model, Classification(), (x, y), batch_size=5000)
    wrong = Specimen(model, Classification(), (x, (y + 1) % 3), batch_size=5000)
    truth = Fisher(right).to_dense()
    assert error(Fisher(right, "empirical").to_dense(), truth) < 0.05
    assert error(Fisher(wrong, "empirical").to_dense(), truth) > 0.3


def test_the_gradient_of_random_batches_has_this_covariance(awkward: Any) -> None:
    """All batches of two, with and without replacement."""
    specimen = awkward("tanh mlp").specimen
    rows = per_example_gradients(specimen)
    N, mean = len(rows), rows.mean(0)
    v = randn(rows.shape[1], seed=9)
    C = float(v @ GradientCovariance(specimen).matvec(v))
    pairs = (rows[:, None] + rows[None]) / 2 - mean
    along = (pairs @ v).square()
    assert float(along.mean()) == pytest.approx(C / 2, rel=1e-10)
    apart = along[~torch.eye(N, dtype=torch.bool)]
    assert float(apart.mean()) == pytest.approx(C / 2 * (N - 2) / (N - 1), rel=1e-10)
