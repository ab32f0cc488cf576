"""What holds for the true, the sampled and the empirical Fisher matrix alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone import Specimen
from torchstone.objectives import CausalLM, Classification
from torchstone.operators import Fisher, GradientCovariance
from torchstone.testing import (
    dense_fisher,
    dense_gradient_covariance,
    per_example_gradients,
)

Sampled = Callable[..., Fisher]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def error(measured: Tensor, exact: Tensor) -> float:
    return float((measured.double() - exact).norm() / exact.norm())


def test_blocks_of_some_parameters(awkward: Any, sampled: Sampled) -> None:
    specimen = awkward("tanh mlp").specimen
    chosen = torch.cat([torch.arange(20, 24), torch.arange(24, 36)])
    for whole, block in (
        (Fisher(specimen, "empirical"), Fisher(specimen, "empirical", names=["2.weight", "0.bias"])),
        (GradientCovariance(specimen), GradientCovariance(specimen, names=["2.weight", "0.bias"])),
        (sampled(specimen), sampled(specimen, names=["2.weight", "0.bias"])),
    ):
        assert error(block.to_dense(), whole.to_dense()[chosen][:, chosen]) < 1e-12


def test_one_example_and_no_gradient_at_all(randomised: Any, sampled: Sampled) -> None:
    specimen = Specimen(randomised(nn.Linear(3, 2)), Classification(), (randn(1, 3), torch.tensor([1])))
    g = per_example_gradients(specimen)[0]
    assert error(Fisher(specimen, "empirical").to_dense(), g[:, None] * g) < 1e-13
    assert float(GradientCovariance(specimen).to_dense().norm()) < 1e-14 * float(g @ g)
    ignored = Specimen(
        randomised(nn.Linear(3, 2)), Classification(), (randn(2, 3), torch.tensor([-100, -100]))
    )
    for F in (Fisher(ignored), sampled(ignored), Fisher(ignored, "empirical")):
        assert float(F.to_dense().norm()) == 0


def test_batches_padded_to_different_lengths(randomised: Any, sampled: Sampled) -> None:
    model = randomised(nn.Sequential(nn.Embedding(7, 3), nn.Linear(3, 7)))
    data = [torch.randint(7, (3, length), generator=seeded(length)) for length in (4, 6)]
    specimen = Specimen(model, CausalLM(), data)
    rows = per_example_gradients(specimen)
    assert error(Fisher(specimen, "empirical").to_dense(), rows.T @ rows / 6) < 1e-12
    assert error(sampled(specimen, 2000).to_dense(), Fisher(specimen).to_dense()) < 0.1


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
def test_lower_precision(dtype: torch.dtype, tolerance: float, awkward: Any, make_case: Any) -> None:
    exact = awkward("tanh mlp")
    maps = lambda specimen: (
        Fisher(specimen),
        Fisher(specimen, "empirical"),
        GradientCovariance(specimen),
    )
    truth = [F.to_dense() for F in maps(exact.specimen)]
    low = make_case(awkward("tanh mlp").model, (5,), dtype=dtype)
    for F, expected in zip(maps(low.specimen), truth, strict=True):
        assert F.dtype == torch.float32
        assert error(F.to_dense(), expected) < tolerance


def test_without_second_derivatives_differences_are_used_and_said(
    awkward: Any, make_case: Any, sampled: Sampled
) -> None:
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x.tanh()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
            return gradient * (1 - ctx.saved_tensors[0].tanh() ** 2)

    class Custom(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            made: Any = Once.apply(x)
            return made

    plain = awkward("tanh mlp")
    case = make_case(nn.Sequential(plain.model[0], Custom(), plain.model[2]), (5,))
    for make in (
        Fisher,
        sampled,
        lambda specimen: Fisher(specimen, "empirical"),
        GradientCovariance,
    ):
        F = make(case.specimen)
        assert error(F.to_dense(), make(plain.specimen).to_dense()) < 1e-8
        assert F.how == "central differences (the second derivative of Once is incomplete)"


def test_an_update_of_the_parameters_is_noticed(awkward: Any, sampled: Sampled) -> None:
    case = awkward("tanh mlp")
    maps = (
        Fisher(case.specimen, "empirical"),
        GradientCovariance(case.specimen),
        GradientCovariance(case.specimen, names=["2.bias"]),
        sampled(case.specimen, 3),
    )
    before = [F.to_dense() for F in maps]
    with torch.no_grad():
        for name, parameter in case.model.named_parameters():
            if name != "2.bias":
                parameter.add_(0.3)
    covariance = dense_gradient_covariance(case.specimen)
    exact = (
        dense_fisher(case.specimen, "empirical"),
        covariance,
        covariance[-3:, -3:],
        sampled(case.specimen, 3, memory_bytes=0).to_dense(),
    )
    for F, old, expected in zip(maps, before, exact, strict=True):
        assert error(F.to_dense(), expected) < 1e-11
        assert error(old, expected) > 0.01
