"""Specimens whose risk is a quadratic that a test chooses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone.objectives import Objective
from torchstone.operators.sharpness import RiskAround
from torchstone.specimen import Specimen


class Bowl(nn.Module):
    """x -> 1/2 theta' H theta + b' theta, whatever the data."""

    def __init__(self, hessian: Tensor, at: Tensor, slope: Tensor) -> None:
        super().__init__()
        self.register_buffer("hessian", hessian)
        self.register_buffer("slope", slope)
        self.theta = nn.Parameter(at.clone())

    def forward(self, x: Tensor) -> Tensor:
        buffers: Any = self
        value = 0.5 * self.theta @ buffers.hessian @ self.theta + buffers.slope @ self.theta
        return value + 0 * x[:, 0]


class Output(Objective):
    """The loss is what the network returns."""

    def outputs(self, model: nn.Module, batch: Tensor) -> Tensor:
        return model(batch)

    def losses(self, outputs: Tensor, batch: Tensor) -> Tensor:
        return outputs


@pytest.fixture(scope="session")
def bowl() -> Callable[..., RiskAround]:
    def make(hessian: Tensor, at: Tensor | None = None, slope: Tensor | None = None) -> RiskAround:
        zero = torch.zeros(len(hessian), dtype=hessian.dtype)
        model = Bowl(hessian, zero if at is None else at, zero if slope is None else slope)
        return RiskAround(Specimen(model, Output(), torch.ones(3, 1, dtype=hessian.dtype), batch_size=2))

    return make


@pytest.fixture(scope="session")
def symmetric() -> Callable[..., Tensor]:
    """A matrix with given eigenvalues and random eigenvectors."""

    def make(values: Tensor, seed: int = 0) -> Tensor:
        noise = torch.randn(
            len(values), len(values), generator=torch.Generator().manual_seed(seed), dtype=torch.float64
        )
        basis = torch.linalg.qr(noise).Q
        return basis @ torch.diag(values) @ basis.T

    return make
