"""Optimisers that compute their gradients inside the step: the watcher sees those, not the ones left from before."""

from typing import Any

import pytest
import torch
from torch import nn

from torchstone.watching import watch


def problem() -> tuple[nn.Linear, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    model = nn.Linear(4, 1).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=g))
    return model, torch.randn(16, 4, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("by_name", [True, False])
@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.LBFGS])
def test_gradients_made_by_a_closure_are_the_ones_seen(make: Any, by_name: bool) -> None:
    model, x = problem()
    optimizer = make(model.parameters(), lr=0.05)
    expected = []
    with watch(model, optimizer, every=1, quantities="cheap") as watcher:
        for _ in range(3):
            first: list[float] = []

            def closure(first: list[float] = first) -> torch.Tensor:
                optimizer.zero_grad()
                loss = model(x).square().mean()
                loss.backward()
                if not first:
                    norms = [p.grad.norm() for p in model.parameters() if p.grad is not None]
                    first.append(float(torch.stack(norms).norm()))
                return loss

            loss = optimizer.step(closure=closure) if by_name else optimizer.step(closure)
            watcher.step(loss)
            expected += first
    assert [record.values["gradient_norm"] for record in watcher.records] == pytest.approx(expected)
    assert all(record.values["update_norm"] > 0 for record in watcher.records)


def test_an_error_in_the_closure_is_the_users() -> None:
    model, _ = problem()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    def closure() -> float:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), watch(model, optimizer, every=1, quantities="cheap"):
        optimizer.step(closure)
