"""The tangent kernel by definition: the Jacobian of every output of every example, one at a time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from torchstone.operators import ntk


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _jacobian(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """By parameter the Jacobian (N, C, P), one example and one output at a time."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found: dict[str, list[Tensor]] = {name: [] for name in parameters}
    for n in range(len(x)):
        for output in model(x[n : n + 1]).reshape(-1):
            rows = torch.autograd.grad(
                output, tuple(parameters.values()), retain_graph=True, materialize_grads=True
            )
            for name, row in zip(parameters, rows, strict=True):
                found[name].append(row.reshape(-1))
    return {name: torch.stack(rows).unflatten(0, (len(x), -1)) for name, rows in found.items()}


@pytest.fixture(scope="session")
def jacobian() -> Callable[..., dict[str, Tensor]]:
    return _jacobian


def _shares(left: dict[str, Tensor], right: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.einsum("ncp,mdp->nmcd", left[name], right[name]) for name in left}


def _kernel(left: dict[str, Tensor], right: dict[str, Tensor]) -> Tensor:
    """Of the Jacobians of two sets of examples, (N, M, C, C)."""
    return torch.stack(list(_shares(left, right).values())).sum(0)


@pytest.fixture(scope="session")
def kernel() -> Callable[..., Tensor]:
    return _kernel


def _close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10 * float(expected.abs().max()))


@pytest.fixture(scope="session")
def close() -> Callable[..., None]:
    return _close


def _check(model: nn.Module, shape: tuple[int, ...], formed: tuple[str, ...]) -> None:
    x, other = randn(5, *shape, seed=7), randn(3, *shape, seed=8)
    left, right = _jacobian(model, x), _jacobian(model, other)
    shares, expected, crossed = _shares(left, left), _kernel(left, left), _kernel(left, right)
    found = ntk(model, x, per_layer=True)
    assert set(found.formed) == set(formed)
    assert set(found.by_parameter) == set(shares)
    assert not any(part.requires_grad for part in (found.values, *found.by_parameter.values()))
    _close(found.values, expected)
    for parameter, share in shares.items():
        _close(found.by_parameter[parameter], share)
    _close(ntk(model, x, other).values, crossed)
    diagonal = expected.diagonal(dim1=2, dim2=3)
    _close(ntk(model, x, outputs="trace").values, diagonal.sum(-1))
    _close(ntk(model, x, other, outputs="trace").values, crossed.diagonal(dim1=2, dim2=3).sum(-1))
    last = expected.shape[-1] - 1
    _close(ntk(model, x, outputs=last).values, expected[..., last, last])
    mix = randn(2, last + 1, seed=9)
    mixed = torch.einsum("kc,nmcd,ld->nmkl", mix, expected, mix)
    _close(ntk(model, x, directions=mix).values, mixed)
    _close(ntk(model, x, outputs="trace", directions=mix).values, mixed.diagonal(dim1=2, dim2=3).sum(-1))
    _close(ntk(model, x, outputs=1, directions=mix).values, mixed[..., 1, 1])


@pytest.fixture(scope="session")
def check(randomised: Callable[..., nn.Module]) -> Callable[..., None]:
    """Every form of the kernel of a network with random weights is that of its Jacobian."""
    return lambda model, shape, formed=(): _check(randomised(model), shape, formed)
