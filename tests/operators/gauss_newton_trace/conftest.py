"""Gauss-Newton traces and gradients of one example at a time, from every output's own gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone import Specimen
from torchstone.objectives import Classification, Objective, Regression
from torchstone.operators import gauss_newton_trace, gradient_gram, gradient_norms
from torchstone.testing import per_example_gradients


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def _one_at_a_time(specimen: Specimen, data: Any, examples: int) -> dict[str, Tensor]:
    """tr(J_n^T H_n J_n) by parameter and example, from every output's gradient."""
    objective, parameters = specimen.objective, specimen.trainable
    found: dict[str, list[float]] = {name: [] for name in parameters}
    for n in range(examples):
        batch = objective.take(data, torch.tensor([n]))
        outputs = objective.outputs(specimen.model, batch)
        loss = lambda f, batch=batch, shape=outputs.shape: objective.losses(f.reshape(shape), batch).sum()
        hessian: Any = torch.autograd.functional.hessian(loss, outputs.detach().reshape(-1))
        for name, parameter in parameters.items():
            rows = [
                torch.autograd.grad(one, parameter, retain_graph=True, materialize_grads=True)[0].reshape(-1)
                for one in outputs.reshape(-1)
            ]
            jacobian = torch.stack(rows)
            found[name].append(float(torch.trace(jacobian.T @ hessian @ jacobian)))
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in found.items()}


@pytest.fixture(scope="session")
def one_at_a_time() -> Callable[..., dict[str, Tensor]]:
    return _one_at_a_time


def _check(
    model: nn.Module,
    shape: tuple[int, ...],
    *,
    task: str = "classification",
    examples: int = 6,
    batch_size: int = 4,
    inputs: Tensor | None = None,
    formed: tuple[str, ...] = (),
    **options: Any,
) -> None:
    x = randn(examples, *shape, seed=77) if inputs is None else inputs
    with torch.no_grad():
        made = model(x)
    if task == "classification":
        data: Any = (x, torch.randint(made.shape[1], (examples, *made.shape[2:]), generator=generator(1)))
        objective: Objective = Classification()
    else:
        data, objective = (x, randn(*made.shape, seed=78)), Regression()
    specimen = Specimen(model, objective, data, batch_size=batch_size)
    result = gauss_newton_trace(specimen, generator=generator(2), **options)
    assert result.missing == {}
    assert result.formed == set(formed)
    expected = _one_at_a_time(specimen, data, examples)
    assert set(expected) == set(result.by_example)
    for name, values in expected.items():
        torch.testing.assert_close(result.by_example[name], values, rtol=1e-10, atol=1e-12, msg=name)
    assert sum(float(values.sum()) for values in expected.values()) > 0
    _check_gradients(specimen, formed, **options)


@pytest.fixture(scope="session")
def check(randomised: Callable[..., nn.Module]) -> Callable[..., None]:
    """Traces of a network with random weights are those of single examples, and so are norms of its gradients."""
    return lambda model, shape, **options: _check(randomised(model), shape, **options)


def _check_gradients(specimen: Specimen, formed: tuple[str, ...], **options: Any) -> None:
    """The same rules give norms and inner products of the losses' gradients."""
    rows = per_example_gradients(specimen)
    gram = gradient_gram(specimen, **options)
    torch.testing.assert_close(gram.matrix, rows @ rows.T, rtol=1e-10, atol=1e-12)
    assert gram.formed == formed
    norms = gradient_norms(specimen, **options)
    assert norms.formed == formed
    start = 0
    for name, parameter in specimen.trainable.items():
        part = rows[:, start : start + parameter.numel()]
        torch.testing.assert_close(norms.per_parameter[name], part.square().sum(1), rtol=1e-10, atol=1e-12)
        start += parameter.numel()
