"""Columns of the loss Hessian add up to it, and samples of them do on average."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone import Specimen
from torchstone.objectives import Classification, Objective, Regression
from torchstone.operators.loss_curvature import loss_curvature


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


@pytest.mark.parametrize("kind", ["classes", "positions", "diagonal"])
def test_large_loss_hessians_add_up_from_their_columns(kind: str) -> None:
    """sum_k sign s s^T is the loss Hessian, and the mean of s s^T over samples too."""
    shape = {"classes": (3, 50), "positions": (3, 4, 5, 3), "diagonal": (3, 7, 9)}[kind]
    outputs = 2 * randn(*shape)
    labels: Any = torch.randint(4, (3, *shape[2:]), generator=generator(1))
    if kind == "positions":
        labels[0, 0, 0] = -100
    batch = (outputs, randn(*shape, seed=5) if kind == "diagonal" else labels)
    objective: Objective = Regression() if kind == "diagonal" else Classification()
    specimen = Specimen(nn.Identity(), objective, batch)
    found = loss_curvature(specimen, outputs, batch)
    assert not isinstance(found, str)
    assert found.kind == ("diagonal" if kind == "diagonal" else "softmax")
    total = torch.zeros(3, outputs[0].numel(), outputs[0].numel(), dtype=torch.float64)
    for k in range(found.count):
        column, signs = found.column(k)
        rows = column.flatten(1)
        total += signs[:, None, None] * rows[:, :, None] * rows[:, None, :]
    for n in range(3):
        one = objective.take(batch, torch.tensor([n]))
        loss = lambda f, one=one: objective.losses(f.reshape(1, *shape[1:]), one).sum()
        expected: Any = torch.autograd.functional.hessian(loss, outputs[n].reshape(-1))
        torch.testing.assert_close(total[n], expected, rtol=1e-9, atol=1e-12)
    copies = dataclasses.replace(  # of every example, so that one call draws a thousand times
        found,
        vectors=found.vectors.repeat_interleave(1000, 0),
        signs=found.signs.repeat_interleave(1000, 0),
        shape=(3000, *shape[1:]),
    )
    draws, seed = torch.zeros_like(total), generator(6)
    for _ in range(20):
        rows = copies.sample(seed)[0].reshape(3, 1000, -1)
        draws += rows.mT @ rows / 20_000
    assert float((draws - total).norm() / total.norm()) < 0.15
    trace = lambda matrices: matrices.diagonal(dim1=1, dim2=2).sum(1)
    torch.testing.assert_close(trace(draws), trace(total), rtol=0.02, atol=0.0)


def test_saturated_softmax_keeps_its_weights() -> None:
    outputs = 200 * randn(3, 60)
    specimen = Specimen(nn.Identity(), Classification(), (outputs, torch.tensor([0, 1, 2])))
    found = loss_curvature(specimen, outputs, (outputs, torch.tensor([0, 1, 2])))
    assert not isinstance(found, str)
    total = sum(float(found.column(k)[0].square().sum()) for k in range(found.count))
    p = outputs.softmax(1)
    assert total == pytest.approx(float((p * (1 - p)).sum()), rel=1e-9)
