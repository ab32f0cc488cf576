"""Trace, symmetry, blocks and sums of the tangent kernel."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone.operators import ntk


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def test_identities(randomised: Any, close: Any, jacobian: Any) -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(3, 2, 3),
        nn.Flatten(),
        nn.Linear(18, 3),
    )
    model, x = randomised(model), randn(6, 2, 5, 5, seed=7)
    found = ntk(model, x)
    norms = sum(float(rows.square().sum()) for rows in jacobian(model, x).values())
    assert float(found.matrix.trace()) == pytest.approx(norms, rel=1e-12)
    assert torch.equal(found.matrix, found.matrix.T)
    values = torch.linalg.eigvalsh(found.matrix)
    assert float(values[0]) >= -1e-8 * float(values[-1])
    joint = ntk(model, torch.cat([x[:2], x[3:]])).values
    close(joint[:2, 2:], ntk(model, x[:2], x[3:]).values)
    layers = ntk(model, x, per_layer=True).by_layer()
    assert list(layers) == ["0", "2", "4"]
    close(sum(layers.values(), torch.zeros(())), found.values)


def test_one_example_and_duplicates(randomised: Any, close: Any) -> None:
    model = randomised(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3, bias=False)))
    x = randn(1, 4)
    one, four = ntk(model, x).values, ntk(model, x.expand(4, -1)).values
    close(four, one.expand(4, 4, -1, -1))
