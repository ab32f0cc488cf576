"""The Fisher matrices against enumerated classes, closed forms and single examples' gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone import Specimen
from torchstone.errors import SettingError, SpecimenError
from torchstone.objectives import CausalLM, Classification, Objective, Regression
from torchstone.operators import Fisher, GaussNewton, GradientCovariance
from torchstone.operators.predictive import OfLabels
from torchstone.testing import (
    dense_fisher,
    dense_gradient_covariance,
    dense_jacobian,
    per_example_gradients,
)

CLASSIFIERS = (
    "tanh mlp",
    "batch norm cnn",
    "unused and frozen",
    "lstm",
    "attention",
    "transformer",
    "linear",
)
ALL = (*CLASSIFIERS, "relu regression", "tied", "gru")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def randomised(model: nn.Module) -> nn.Module:
    model.double()
    for position, parameter in enumerate(model.parameters()):
        parameter.data.copy_(0.6 * randn(*parameter.shape, seed=position))
    return model


def error(measured: Tensor, exact: Tensor) -> float:
    return float((measured.double() - exact).norm() / exact.norm())


def sampled(specimen: Specimen, samples: int = 1, seed: int = 0, **options: Any) -> Fisher:
    return Fisher(specimen, "sampled", samples=samples, generator=seeded(seed), **options)


# -- true --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_true_is_the_expectation_over_classes(name: str, awkward: Any) -> None:
    specimen = awkward(name).specimen
    F = Fisher(specimen).to_dense(block=7)
    assert error(F, dense_fisher(specimen)) < 1e-11
    v = randn(len(F), seed=8)
    assert error(GaussNewton(specimen).matvec(v), F @ v) < 1e-13


def test_true_of_a_single_logit_is_that_of_two_classes() -> None:
    labels = torch.tensor([0, 1, 1, 0, 1])
    specimen = Specimen(randomised(nn.Linear(3, 1)), Classification(), (randn(5, 3), labels))
    assert error(Fisher(specimen).to_dense(), dense_fisher(specimen)) < 1e-12


def test_true_does_not_depend_on_labels_nor_on_their_smoothing(awkward: Any) -> None:
    case = awkward("tanh mlp")
    x, y = case.whole
    F = Fisher(case.specimen).to_dense()
    other = Specimen(case.model, Classification(label_smoothing=0.3), (x, (y + 1) % 3), batch_size=4)
    assert error(Fisher(other).to_dense(), F) < 1e-12
    empirical = Fisher(case.specimen, "empirical").to_dense()
    assert error(Fisher(other, "empirical").to_dense(), empirical) > 0.1


def test_squared_error_is_a_gaussian_of_variance_half_the_outputs() -> None:
    """With y ~ N(f, D/2): E[(dl/df)(dl/df)^T] = (2/D)^2 (D/2) = 2/D."""
    model = randomised(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 5)))
    specimen = Specimen(model, Regression(), (randn(6, 3), randn(6, 5, seed=1)), batch_size=4)
    jacobian = dense_jacobian(specimen)
    expected = 2 / 5 * torch.einsum("nkp,nkq->pq", jacobian, jacobian) / 6
    assert error(Fisher(specimen).to_dense(), expected) < 1e-12
    assert error(sampled(specimen, 4000).to_dense(), expected) < 0.1


def test_positions_count_as_the_loss_weighs_them() -> None:
    """Three counted positions of four in one sequence, two in the other."""
    tokens = torch.tensor([[1, 2, 0, 3, 1], [4, 4, 2, 1, 0]])
    labels = tokens.clone()
    labels[0, 1], labels[1, 3:] = -100, -100
    data = {"input_ids": tokens, "labels": labels}
    model = randomised(nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5)))
    specimen = Specimen(model, CausalLM(), data)
    total = torch.zeros(())
    for row in range(2):
        counted = [t for t in range(4) if labels[row, t + 1] != -100]
        for t in counted:
            for entry in model(tokens)[row, t].log_softmax(0):
                g = torch.cat(
                    [
                        p.reshape(-1)
                        for p in torch.autograd.grad(entry, list(model.parameters()), retain_graph=True)
                    ]
                )
                total = total + entry.detach().exp() * g[:, None] * g / len(counted) / 2
    assert error(Fisher(specimen).to_dense(), total) < 1e-12
    assert error(sampled(specimen, 4000).to_dense(), total) < 0.1


# -- empirical, covariance ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "memory_bytes"), [*((name, 2**29) for name in ALL), ("tanh mlp", 0), ("attention", 0)]
)
def test_empirical_and_covariance_are_those_of_single_examples(
    name: str, memory_bytes: int, awkward: Any
) -> None:
    specimen = awkward(name).specimen
    F = Fisher(specimen, "empirical", memory_bytes=memory_bytes).to_dense(block=9)
    assert error(F, dense_fisher(specimen, "empirical")) < 1e-12
    C = GradientCovariance(specimen, memory_bytes=memory_bytes).to_dense(block=9)
    assert error(C, dense_gradient_covariance(specimen)) < 1e-11
    second, v = GradientCovariance(specimen, centred=False), randn(len(F), seed=8)
    assert error(second.matvec(v), F @ v) < 1e-13


def test_blocks_of_some_parameters(awkward: Any) -> None:
    specimen = awkward("tanh mlp").specimen
    chosen = torch.cat([torch.arange(20, 24), torch.arange(24, 36)])
    for whole, block in (
        (Fisher(specimen, "empirical"), Fisher(specimen, "empirical", names=["2.weight", "0.bias"])),
        (GradientCovariance(specimen), GradientCovariance(specimen, names=["2.weight", "0.bias"])),
        (sampled(specimen), sampled(specimen, names=["2.weight", "0.bias"])),
    ):
        assert error(block.to_dense(), whole.to_dense()[chosen][:, chosen]) < 1e-12


def test_where_the_data_are_fitted_the_empirical_one_vanishes_and_the_true_one_does_not() -> None:
    x = randn(8, 3)
    model = randomised(nn.Linear(3, 1))
    with torch.no_grad():
        specimen = Specimen(model, Regression(), (x, model(x)))
    assert float(Fisher(specimen, "empirical").to_dense().norm()) == 0
    assert float(GradientCovariance(specimen).to_dense().norm()) == 0
    assert float(Fisher(specimen).to_dense().norm()) > 0.5


def test_the_empirical_one_estimates_the_true_one_where_labels_follow_the_model() -> None:
    x = randn(20_000, 2)
    model = randomised(nn.Linear(2, 3))
    with torch.no_grad():
        y = torch.multinomial(model(x).softmax(1), 1, generator=seeded(4))[:, 0]
    right = Specimen(model, Classification(), (x, y), batch_size=5000)
    wrong = Specimen(model, Classification(), (x, (y + 1) % 3), batch_size=5000)
    truth = Fisher(right).to_dense()
    assert error(Fisher(right, "empirical").to_dense(), truth) < 0.05
    assert error(Fisher(wrong, "empirical").to_dense(), truth) > 0.3


def test_the_gradient_of_random_batches_has_this_covariance(awkward: Any) -> None:
    """All batches of two, with and without replacement."""
    specimen = awkward("tanh mlp").specimen
    rows = per_example_gradients(specimen)
    N, mean = len(rows), rows.mean(0)
    v = randn(rows.shape[1], seed=9)
    C = float(v @ GradientCovariance(specimen).matvec(v))
    pairs = (rows[:, None] + rows[None]) / 2 - mean
    along = (pairs @ v).square()
    assert float(along.mean()) == pytest.approx(C / 2, rel=1e-10)
    apart = along[~torch.eye(N, dtype=torch.bool)]
    assert float(apart.mean()) == pytest.approx(C / 2 * (N - 2) / (N - 1), rel=1e-10)


# -- sampled -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tanh mlp", "attention", "relu regression"])
def test_sampled_is_made_of_the_factors_that_were_drawn(name: str, awkward: Any) -> None:
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


def test_sampled_is_one_matrix_whatever_the_batches(awkward: Any, make_case: Callable[..., Any]) -> None:
    case = awkward("tanh mlp")
    F = sampled(case.specimen, 2, 3).to_dense()
    assert torch.equal(F, sampled(case.specimen, 2, 3).to_dense())
    assert error(F, F.T) < 1e-13
    for batch_size in (1, 5, 100):
        other = Specimen(case.model, Classification(), case.whole, batch_size=batch_size)
        assert error(sampled(other, 2, 3, memory_bytes=0).to_dense(), F) < 1e-12
    assert error(sampled(case.specimen, 2, 4).to_dense(), F) > 0.01


def test_sampled_has_at_most_one_direction_a_sample(awkward: Any) -> None:
    F = sampled(awkward("tanh mlp").specimen, 1).to_dense()
    assert int(torch.linalg.matrix_rank(F)) <= 11
    assert float(torch.linalg.eigvalsh(F)[0]) > -1e-12


def test_drawing_leaves_the_global_random_state_alone(awkward: Any) -> None:
    specimen = awkward("tanh mlp").specimen
    state = torch.random.get_rng_state()
    sampled(specimen).to_dense()
    assert torch.equal(state, torch.random.get_rng_state())


# -- custom objectives -------------------------------------------------------------------------------------------------


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


def counts(objective: Objective) -> Specimen:
    model = randomised(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)))
    return Specimen(model, objective, (randn(6, 3), randn(6, 2, seed=1).abs().round()), batch_size=4)


@pytest.mark.parametrize("objective", [Poisson(), DrawnPoisson()])
def test_objectives_may_say_that_they_are_likelihoods(objective: Objective) -> None:
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


def test_other_objectives_are_refused() -> None:
    specimen = counts(Undeclared())
    said = refusal(lambda: Fisher(specimen))
    assert said.startswith(
        'Fisher(kind="true") needs an objective whose loss is -log p(y | outputs); got Undeclared'
    )
    assert "or write its `sampled`" in refusal(lambda: sampled(specimen))
    assert Fisher(specimen, "empirical").shape[0] == 26


def test_a_subclass_with_another_loss_must_say_so_again() -> None:
    class Focal(Classification):
        def losses(self, outputs: Tensor, batch: Any) -> Tensor:
            return super().losses(outputs, batch) ** 2

    class Renamed(Classification):
        task = "renamed"

    data = (randn(5, 3), torch.tensor([0, 1, 2, 0, 1]))
    assert "Focal" in refusal(lambda: Fisher(Specimen(randomised(nn.Linear(3, 3)), Focal(), data)))
    Fisher(Specimen(randomised(nn.Linear(3, 3)), Renamed(), data))


def test_settings_are_checked(awkward: Any) -> None:
    specimen = awkward("linear").specimen
    wrong: Any = "mine"
    assert refusal(lambda: Fisher(specimen, wrong)).startswith(
        "kind must be one of 'true', 'sampled', 'empirical'; got 'mine'"
    )
    assert "samples must be a whole number of 1 or more; got 0" in refusal(lambda: sampled(specimen, 0))
    assert "draws labels; got no generator" in refusal(lambda: Fisher(specimen, "sampled"))
    assert "must return the outputs' shape" in refusal(lambda: sampled(counts(WrongShape())).to_dense())


def test_losses_without_a_structure_to_draw_from_are_refused() -> None:
    class Mixed(Poisson):
        natural = True

        def losses(self, outputs: Tensor, batch: Any) -> Tensor:
            return outputs.logsumexp(1) ** 2 + outputs.square().sum(1)

    specimen = Specimen(randomised(nn.Linear(3, 60)), Mixed(), (randn(6, 3), randn(6)))
    assert "has no structure that is known" in refusal(lambda: sampled(specimen).to_dense())


# -- hard cases --------------------------------------------------------------------------------------------------------


def test_coupled_examples_have_no_gradients_of_their_own() -> None:
    model = randomised(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))).train()
    data = (randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2]))
    specimen = Specimen(model, Classification(), data, mode="as_is")
    for one in (specimen, specimen.prepared()):
        for make in (lambda one=one: Fisher(one, "empirical"), lambda one=one: GradientCovariance(one)):
            assert refusal(make, SpecimenError).startswith(
                "Gradients of single examples need examples that do not influence each other; got outputs that depend"
            )
    Fisher(specimen).matvec(torch.ones(21, dtype=torch.float64))


def test_losses_that_depend_on_each_other_are_refused() -> None:
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


def test_one_example_and_no_gradient_at_all() -> None:
    specimen = Specimen(randomised(nn.Linear(3, 2)), Classification(), (randn(1, 3), torch.tensor([1])))
    g = per_example_gradients(specimen)[0]
    assert error(Fisher(specimen, "empirical").to_dense(), g[:, None] * g) < 1e-13
    assert float(GradientCovariance(specimen).to_dense().norm()) < 1e-14 * float(g @ g)
    ignored = Specimen(
        randomised(nn.Linear(3, 2)), Classification(), (randn(2, 3), torch.tensor([-100, -100]))
    )
    for F in (Fisher(ignored), sampled(ignored), Fisher(ignored, "empirical")):
        assert float(F.to_dense().norm()) == 0


def test_batches_padded_to_different_lengths() -> None:
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


def test_without_second_derivatives_differences_are_used_and_said(awkward: Any, make_case: Any) -> None:
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


def test_an_update_of_the_parameters_is_noticed(awkward: Any) -> None:
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
