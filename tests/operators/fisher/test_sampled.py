"""The Fisher matrix of drawn labels: its factors, their law and its seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone import Specimen
from torchstone.objectives import Classification
from torchstone.operators import Fisher
from torchstone.operators.predictive import OfLabels
from torchstone.testing import (
    dense_jacobian,
)

Sampled = Callable[..., Fisher]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def error(measured: Tensor, exact: Tensor) -> float:
    return float((measured.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("name", ["tanh mlp", "attention", "relu regression"])
def test_sampled_is_made_of_the_factors_that_were_drawn(name: str, awkward: Any, sampled: Sampled) -> None:
    specimen = awkward(name).specimen
    F = sampled(specimen, 3)
    jacobian, start = dense_jacobian(specimen), 0
    expected = torch.zeros(F.shape, dtype=torch.float64)
    with specimen.measuring(), torch.no_grad():
        for batch in specimen.batches():
            assert F.cotangents is not None
            drawn, signs = F.cotangents.of(specimen, specimen.forward(batch), batch, start)
            assert drawn.shape[0] == 3
            assert bool((signs == 1).all())
            for n in range(drawn.shape[1]):
                rows = drawn[:, n] @ jacobian[start + n]
                expected += rows.T @ rows / specimen.size()
            start += drawn.shape[1]
    assert error(F.to_dense(), expected) < 1e-12


def test_drawn_labels_are_unbiased_with_the_variance_that_is_said() -> None:
    """(s . u)^2 over draws, for fixed directions u in the outputs."""
    outputs, u = 2 * randn(4, 5), randn(4, 5, seed=1)
    specimen = Specimen(nn.Identity(), Classification(), (outputs, torch.tensor([0, 1, 2, 3])))
    count = 5_000
    drawn, _ = OfLabels(count, 7).of(specimen, outputs, (outputs, torch.tensor([0, 1, 2, 3])), 0)
    forms = count * (drawn * u).sum(2).square()
    p = outputs.softmax(1)
    squares = (u - (p * u).sum(1, keepdim=True)).square()
    mean = (p * squares).sum(1)
    variance = (p * squares.square()).sum(1) - mean.square()
    assert bool(((forms.mean(0) - mean).abs() < 4 * (variance / count).sqrt()).all())
    torch.testing.assert_close(forms.var(0), variance, rtol=0.2, atol=0)


def test_sampled_is_one_matrix_whatever_the_batches(awkward: Any, sampled: Sampled) -> None:
    case = awkward("tanh mlp")
    F = sampled(case.specimen, 2, 3).to_dense()
    assert torch.equal(F, sampled(case.specimen, 2, 3).to_dense())
    assert error(F, F.T) < 1e-13
    for batch_size in (1, 5, 100):
        other = Specimen(case.model, Classification(), case.whole, batch_size=batch_size)
        assert error(sampled(other, 2, 3, memory_bytes=0).to_dense(), F) < 1e-12
    assert error(sampled(case.specimen, 2, 4).to_dense(), F) > 0.01


def test_sampled_has_at_most_one_direction_a_sample(awkward: Any, sampled: Sampled) -> None:
    F = sampled(awkward("tanh mlp").specimen, 1).to_dense()
    assert int(torch.linalg.matrix_rank(F)) <= 11
    assert float(torch.linalg.eigvalsh(F)[0]) > -1e-12


def test_drawing_leaves_the_global_random_state_alone(awkward: Any, sampled: Sampled) -> None:
    specimen = awkward("tanh mlp").specimen
    state = torch.random.get_rng_state()
    sampled(specimen).to_dense()
    assert torch.equal(state, torch.random.get_rng_state())
