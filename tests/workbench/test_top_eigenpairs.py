"""Eigenpairs of the Hessian that instruments share."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from torchstone.objectives import Classification
from torchstone.specimen import Specimen
from torchstone.testing import dense_hessian
from torchstone.workbench import Workbench


def bench() -> Workbench:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 4, generator=generator, dtype=torch.float64)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return Workbench.on(Specimen(model, Classification(), (x, x[:, :3].argmax(1))))


def test_they_are_those_of_the_dense_hessian_and_made_once() -> None:
    on = bench()
    found = on.top_eigenpairs(4, tolerance=1e-9)
    exact = torch.linalg.eigvalsh(dense_hessian(on.specimen)).flip(0)
    assert found.values.tolist() == pytest.approx(exact[:4].tolist(), rel=1e-8)
    assert on.top_eigenpairs(4, tolerance=1e-9) is found
    assert torch.equal(bench().top_eigenpairs(4, tolerance=1e-9).values, found.values)


def test_no_more_than_there_are_parameters() -> None:
    assert len(bench().top_eigenpairs(1000).values) == 27
