"""Whether a parameter's block of the Hessian has the trace of its Gauss-Newton block, by plain autodiff."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from torchstone.operators import curved_parameters


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _diagonal_traces(outputs: Tensor, parameters: Mapping[str, Tensor]) -> dict[str, tuple[float, float]]:
    """Trace of each block of the Hessian and of the Gauss-Newton matrix, of a loss that is curved in the outputs."""
    flat = outputs.reshape(-1)
    target = randn(flat.numel(), seed=9)
    loss = (flat - target).square().sum() + flat.sin().sum()
    curvature = 2 - flat.detach().sin()
    found = {}
    for name, parameter in parameters.items():
        (gradient,) = torch.autograd.grad(
            loss, parameter, create_graph=True, retain_graph=True, materialize_grads=True
        )
        entries = gradient.reshape(-1)
        second = 0.0
        for position, entry in enumerate(entries if gradient.requires_grad else ()):
            (row,) = torch.autograd.grad(entry, parameter, retain_graph=True, materialize_grads=True)
            second += float(row.reshape(-1)[position])
        rows = [
            torch.autograd.grad(one, parameter, retain_graph=True, materialize_grads=True)[0].reshape(-1)
            for one in flat
        ]
        gauss_newton = float((curvature[:, None] * torch.stack(rows).square()).sum())
        found[name] = (second, gauss_newton)
    return found


@pytest.fixture(scope="session")
def diagonal_traces() -> Callable[..., dict[str, Any]]:
    return _diagonal_traces


def _assert_never_wrong(outputs: Tensor, parameters: Mapping[str, Tensor]) -> dict[str, str]:
    curved = curved_parameters(outputs, outputs.sum(), parameters)
    for name, (hessian, gauss_newton) in _diagonal_traces(outputs, parameters).items():
        if name not in curved:
            assert abs(hessian - gauss_newton) <= 1e-9 * (1 + abs(gauss_newton)), name
    return curved


@pytest.fixture(scope="session")
def assert_never_wrong() -> Callable[..., dict[str, Any]]:
    return _assert_never_wrong
