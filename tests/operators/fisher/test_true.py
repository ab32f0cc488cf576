"""The true Fisher matrix against enumerated classes and closed forms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone import Specimen
from torchstone.objectives import CausalLM, Classification, Regression
from torchstone.operators import Fisher, GaussNewton
from torchstone.testing import (
    dense_fisher,
    dense_jacobian,
)

Sampled = Callable[..., Fisher]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def error(measured: Tensor, exact: Tensor) -> float:
    return float((measured.double() - exact).norm() / exact.norm())


CLASSIFIERS = (
    "tanh mlp",
    "batch norm cnn",
    "unused and frozen",
    "lstm",
    "attention",
    "transformer",
    "linear",
)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_true_is_the_expectation_over_classes(name: str, awkward: Any) -> None:
    specimen = awkward(name).specimen
    F = Fisher(specimen).to_dense(block=7)
    assert error(F, dense_fisher(specimen)) < 1e-11
    v = randn(len(F), seed=8)
    assert error(GaussNewton(specimen).matvec(v), F @ v) < 1e-13


def test_true_of_a_single_logit_is_that_of_two_classes(randomised: Any) -> None:
    labels = torch.tensor([0, 1, 1, 0, 1])
    specimen = Specimen(randomised(nn.Linear(3, 1)), Classification(), (randn(5, 3), labels))
    assert error(Fisher(specimen).to_dense(), dense_fisher(specimen)) < 1e-12


def test_true_does_not_depend_on_labels_nor_on_their_smoothing(awkward: Any) -> None:
    case = awkward("tanh mlp")
    x, y = case.whole
    F = Fisher(case.specimen).to_dense()
    other = Specimen(case.model, Classification(label_smoothing=0.3), (x, (y + 1) % 3), batch_size=4)
    assert error(Fisher(other).to_dense(), F) < 1e-12
    empirical = Fisher(case.specimen, "empirical").to_dense()
    assert error(Fisher(other, "empirical").to_dense(), empirical) > 0.1


def test_squared_error_is_a_gaussian_of_variance_half_the_outputs(randomised: Any, sampled: Sampled) -> None:
    """With y ~ N(f, D/2): E[(dl/df)(dl/df)^T] = (2/D)^2 (D/2) = 2/D."""
    model = randomised(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 5)))
    specimen = Specimen(model, Regression(), (randn(6, 3), randn(6, 5, seed=1)), batch_size=4)
    jacobian = dense_jacobian(specimen)
    expected = 2 / 5 * torch.einsum("nkp,nkq->pq", jacobian, jacobian) / 6
    assert error(Fisher(specimen).to_dense(), expected) < 1e-12
    assert error(sampled(specimen, 4000).to_dense(), expected) < 0.1


def test_positions_count_as_the_loss_weighs_them(randomised: Any, sampled: Sampled) -> None:
    """Three counted positions of four in one sequence, two in the other."""
    tokens = torch.tensor([[1, 2, 0, 3, 1], [4, 4, 2, 1, 0]])
    labels = tokens.clone()
    labels[0, 1], labels[1, 3:] = -100, -100
    data = {"input_ids": tokens, "labels": labels}
    model = randomised(nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5)))
    specimen = Specimen(model, CausalLM(), data)
    total = torch.zeros(())
    for row in range(2):
        counted = [t for t in range(4) if labels[row, t + 1] != -100]
        for t in counted:
            for entry in model(tokens)[row, t].log_softmax(0):
                g = torch.cat(
                    [
                        p.reshape(-1)
                        for p in torch.autograd.grad(entry, list(model.parameters()), retain_graph=True)
                    ]
                )
                total = total + entry.detach().exp() * g[:, None] * g / len(counted) / 2
    assert error(Fisher(specimen).to_dense(), total) < 1e-12
    assert error(sampled(specimen, 4000).to_dense(), total) < 0.1
