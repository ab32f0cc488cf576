"""Which objectives have a Fisher matrix, and how others are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone import Specimen
from torchstone.errors import SettingError, SpecimenError
from torchstone.objectives import Classification, Objective
from torchstone.operators import Fisher, GradientCovariance
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


class Poisson(Objective):
    """-log p of counts with log-rate f: exp(f) - y f, whose Fisher information in f is exp(f)."""

    natural = True

    def outputs(self, model: nn.Module, batch: Any) -> Tensor:
        return model(batch[0])

    def losses(self, outputs: Tensor, batch: Any) -> Tensor:
        return (outputs.exp() - batch[1] * outputs).sum(1)


class DrawnPoisson(Poisson):
    def sampled(self, outputs: Tensor, batch: Any, generator: torch.Generator) -> Tensor:
        rate = outputs.exp()
        return rate - torch.poisson(rate, generator=generator)


class Undeclared(Poisson):
    def losses(self, outputs: Tensor, batch: Any) -> Tensor:
        return (outputs - batch[1]).abs().sum(1)


class WrongShape(Poisson):
    def sampled(self, outputs: Tensor, batch: Any, generator: torch.Generator) -> Tensor:
        return outputs.sum(1)


@pytest.fixture
def counts(randomised: Any) -> Callable[[Objective], Specimen]:
    def make(objective: Objective) -> Specimen:
        model = randomised(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)))
        return Specimen(model, objective, (randn(6, 3), randn(6, 2, seed=1).abs().round()), batch_size=4)

    return make


@pytest.mark.parametrize("objective", [Poisson(), DrawnPoisson()])
def test_objectives_may_say_that_they_are_likelihoods(
    objective: Objective, sampled: Sampled, counts: Any
) -> None:
    specimen = counts(objective)
    jacobian = dense_jacobian(specimen)
    with torch.no_grad():
        rates = specimen.model(randn(6, 3)).exp()
    expected = torch.einsum("nkp,nk,nkq->pq", jacobian, rates, jacobian) / 6
    assert error(Fisher(specimen).to_dense(), expected) < 1e-11
    assert error(sampled(specimen, 4000).to_dense(), expected) < 0.1


def refusal(call: Callable[[], Any], kind: type[Exception] = SettingError) -> str:
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


def test_other_objectives_are_refused(sampled: Sampled, counts: Any) -> None:
    specimen = counts(Undeclared())
    said = refusal(lambda: Fisher(specimen))
    assert said.startswith(
        'Fisher(kind="true") needs an objective whose loss is -log p(y | outputs); got Undeclared'
    )
    assert "or write its `sampled`" in refusal(lambda: sampled(specimen))
    assert Fisher(specimen, "empirical").shape[0] == 26


def test_a_subclass_with_another_loss_must_say_so_again(randomised: Any) -> None:
    class Focal(Classification):
        def losses(self, outputs: Tensor, batch: Any) -> Tensor:
            return super().losses(outputs, batch) ** 2

    class Renamed(Classification):
        task = "renamed"

    data = (randn(5, 3), torch.tensor([0, 1, 2, 0, 1]))
    assert "Focal" in refusal(lambda: Fisher(Specimen(randomised(nn.Linear(3, 3)), Focal(), data)))
    Fisher(Specimen(randomised(nn.Linear(3, 3)), Renamed(), data))


def test_settings_are_checked(awkward: Any, sampled: Sampled, counts: Any) -> None:
    specimen = awkward("linear").specimen
    wrong: Any = "mine"
    assert refusal(lambda: Fisher(specimen, wrong)).startswith(
        "kind must be one of 'true', 'sampled', 'empirical'; got 'mine'"
    )
    assert "samples must be a whole number of 1 or more; got 0" in refusal(lambda: sampled(specimen, 0))
    assert "draws labels; got no generator" in refusal(lambda: Fisher(specimen, "sampled"))
    assert "must return the outputs' shape" in refusal(lambda: sampled(counts(WrongShape())).to_dense())


def test_losses_without_a_structure_to_draw_from_are_refused(randomised: Any, sampled: Sampled) -> None:
    class Mixed(Poisson):
        natural = True

        def losses(self, outputs: Tensor, batch: Any) -> Tensor:
            return outputs.logsumexp(1) ** 2 + outputs.square().sum(1)

    specimen = Specimen(randomised(nn.Linear(3, 60)), Mixed(), (randn(6, 3), randn(6)))
    assert "has no structure that is known" in refusal(lambda: sampled(specimen).to_dense())


def test_coupled_examples_have_no_gradients_of_their_own(randomised: Any) -> None:
    model = randomised(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))).train()
    data = (randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2]))
    specimen = Specimen(model, Classification(), data, mode="as_is")
    for one in (specimen, specimen.prepared()):
        for make in (lambda one=one: Fisher(one, "empirical"), lambda one=one: GradientCovariance(one)):
            assert refusal(make, SpecimenError).startswith(
                "Gradients of single examples need examples that do not influence each other; got outputs that depend"
            )
    Fisher(specimen).matvec(torch.ones(21, dtype=torch.float64))


def test_losses_that_depend_on_each_other_are_refused(randomised: Any) -> None:
    class Contrast(Poisson):
        def losses(self, outputs: Tensor, batch: Any) -> Tensor:
            return nn.functional.cross_entropy(
                outputs @ outputs.T, torch.arange(len(outputs)), reduction="none"
            )

    specimen = Specimen(randomised(nn.Linear(3, 4)), Contrast(), (randn(6, 3), randn(6)))
    said = refusal(lambda: Fisher(specimen, "empirical").to_dense())
    assert said.startswith(
        "Gradients of single examples need losses that depend on their own example only; got losses of a batch"
    )
