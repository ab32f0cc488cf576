"""Spectra through the Gram matrix against the eigenvalues of dense matrices, and the identity of the two ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone import Specimen
from torchstone.errors import SettingError, SpecimenError
from torchstone.linalg import top_eigenpairs
from torchstone.objectives import CausalLM, Classification, Objective, Regression
from torchstone.operators import Fisher, GaussNewton, dual_eigenpairs
from torchstone.operators.multinomial_root import multinomial_root
from torchstone.testing import (
    dense_fisher,
    dense_gauss_newton,
    dense_gradient_covariance,
    per_example_gradients,
)

NAMES = ("tanh mlp", "batch norm cnn", "tied", "unused and frozen", "lstm", "attention", "relu regression")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def randomised(model: nn.Module) -> nn.Module:
    model.double()
    for position, parameter in enumerate(model.parameters()):
        parameter.data.copy_(0.6 * randn(*parameter.shape, seed=position))
    return model


MATRICES: dict[str, Callable[[Specimen], Tensor]] = {
    "gauss_newton": dense_gauss_newton,
    "fisher": dense_gauss_newton,
    "sampled_fisher": lambda one: Fisher(one, "sampled", samples=2, generator=seeded(3)).to_dense(),
    "empirical_fisher": lambda one: dense_fisher(one, "empirical"),
    "gradient_covariance": dense_gradient_covariance,
}


def check(specimen: Specimen, kind: Any, matrix: Tensor, **options: Any) -> None:
    exact = torch.linalg.eigvalsh(matrix).flip(0)
    scale = float(exact.abs().max())
    found = dual_eigenpairs(specimen, kind, 4, samples=2, generator=seeded(3), **options)
    assert found.size == len(matrix)
    assert len(found.values) == min(found.rows, found.size)
    assert found.rank == int((exact.abs() > 1e-12 * scale).sum())
    padded = torch.cat([found.values, torch.zeros(found.size - len(found.values), dtype=torch.float64)])
    assert float((padded.sort(descending=True).values - exact).abs().max()) < 1e-12 * scale
    assert found.trace == pytest.approx(float(matrix.trace()), rel=1e-11, abs=1e-12 * scale)
    assert found.vectors.shape == (found.size, min(4, found.rank))
    chosen = found.values[found.values.abs().argsort(descending=True)[: found.vectors.shape[1]]]
    residual = matrix @ found.vectors - found.vectors * chosen
    assert float(residual.abs().max()) < 1e-11 * scale
    together = found.vectors.T @ found.vectors
    torch.testing.assert_close(together, torch.eye(len(together), dtype=torch.float64), rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", MATRICES)
@pytest.mark.parametrize("name", NAMES)
def test_eigenpairs_are_those_of_the_dense_matrix(name: str, kind: str, awkward: Any) -> None:
    specimen = awkward(name).specimen
    check(specimen, kind, MATRICES[kind](specimen))


@pytest.mark.parametrize("kind", ["gauss_newton", "gradient_covariance"])
@pytest.mark.parametrize("memory_bytes", [1, 20_000])
def test_little_memory_changes_nothing(kind: str, memory_bytes: int, awkward: Any) -> None:
    specimen = awkward("batch norm cnn").specimen
    check(specimen, kind, MATRICES[kind](specimen), memory_bytes=memory_bytes)


def test_a_block_of_some_parameters(awkward: Any) -> None:
    specimen = awkward("tanh mlp").specimen
    chosen = torch.cat([torch.arange(20, 24), torch.arange(24, 36)])
    block = dense_gauss_newton(specimen)[chosen][:, chosen]
    check(specimen, "gauss_newton", block, names=["2.weight", "0.bias"])


def test_more_rows_than_parameters() -> None:
    data = (randn(30, 2), torch.randint(3, (30,), generator=seeded(1)))
    specimen = Specimen(randomised(nn.Linear(2, 3)), Classification(), data, batch_size=7)
    check(specimen, "gauss_newton", dense_gauss_newton(specimen))
    assert dual_eigenpairs(specimen).rows == 60
    assert (
        dual_eigenpairs(specimen).rank == 6
    )  # equal shifts of all scores change nothing: 9 parameters less 3


def test_language_models_with_batches_of_different_lengths() -> None:
    model = randomised(nn.Sequential(nn.Embedding(7, 3), nn.Tanh(), nn.Linear(3, 7)))
    data = [torch.randint(7, (2, length), generator=seeded(length)) for length in (3, 5)]
    specimen = Specimen(model, CausalLM(), data)
    for kind in ("gauss_newton", "fisher"):
        check(specimen, kind, GaussNewton(specimen).to_dense())
    check(specimen, "sampled_fisher", MATRICES["sampled_fisher"](specimen))


class Concave(Objective):
    """Concave in the first output, convex in the second, with mixed terms."""

    def outputs(self, model: nn.Module, batch: Any) -> Tensor:
        return model(batch)

    def losses(self, outputs: Tensor, batch: Any) -> Tensor:
        return outputs.exp().sum(1) - 3 * outputs[:, 0].exp() + outputs[:, 0] * outputs[:, 1]


@pytest.mark.parametrize("examples", [3, 12])
def test_losses_that_are_not_convex_have_negative_eigenvalues(examples: int) -> None:
    model = randomised(nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 2)))
    specimen = Specimen(model, Concave(), randn(examples, 3), batch_size=5)
    matrix = dense_gauss_newton(specimen)
    assert float(torch.linalg.eigvalsh(matrix)[0]) < -0.1
    exact = torch.linalg.eigvalsh(matrix).flip(0)
    found = dual_eigenpairs(specimen, "gauss_newton", 4)
    padded = torch.cat([found.values, torch.zeros(found.size - len(found.values), dtype=torch.float64)])
    torch.testing.assert_close(padded.sort(descending=True).values, exact, rtol=0, atol=1e-7)
    chosen = found.values[found.values.abs().argsort(descending=True)[: found.vectors.shape[1]]]
    torch.testing.assert_close(matrix @ found.vectors, found.vectors * chosen, rtol=0, atol=1e-7)


def test_no_curvature_no_gradient_one_example() -> None:
    model = randomised(nn.Linear(3, 2))
    ignored = Specimen(model, Classification(), (randn(3, 3), torch.full((3,), -100)))
    for kind in MATRICES:
        found = dual_eigenpairs(ignored, kind, 2, generator=seeded(0))  # pyright: ignore[reportArgumentType]
        assert (found.rank, found.trace, found.vectors.shape) == (0, 0.0, (8, 0))
        assert bool((found.values == 0).all())
    one = Specimen(model, Classification(), (randn(1, 3), torch.tensor([1])))
    gradient = per_example_gradients(one)[0]
    found = dual_eigenpairs(one, "empirical_fisher", 1)
    assert float(found.values) == pytest.approx(float(gradient @ gradient), rel=1e-12)
    assert abs(float(found.vectors[:, 0] @ gradient)) == pytest.approx(float(gradient.norm()), rel=1e-12)
    assert dual_eigenpairs(one, "gradient_covariance").rank == 0


def test_a_larger_network_in_float32_agrees_with_lanczos() -> None:
    model = randomised(nn.Sequential(nn.Linear(30, 200), nn.ReLU(), nn.Linear(200, 4))).float()
    data = (randn(40, 30).float(), torch.randint(4, (40,), generator=seeded(1)))
    specimen = Specimen(model, Classification(), data, batch_size=16)
    found = dual_eigenpairs(specimen, "gauss_newton", 3)
    assert (found.rows, found.size) == (120, 7004)
    top = top_eigenpairs(GaussNewton(specimen), 3, generator=seeded(0), tolerance=1e-6)
    torch.testing.assert_close(found.values[:3].float(), top.values.float().cpu(), rtol=1e-4, atol=0)
    overlap = (found.vectors.T.float() @ top.vectors.float()).abs()
    torch.testing.assert_close(overlap.diagonal(), torch.ones(3), rtol=0, atol=1e-2)


def refusal(call: Callable[[], Any], kind: type[Exception] = SettingError) -> str:
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


def test_refusals(awkward: Any) -> None:
    specimen = awkward("tanh mlp").specimen
    wrong: Any = "hessian"
    assert refusal(lambda: dual_eigenpairs(specimen, wrong)).startswith(
        "kind must be one of 'gauss_newton', 'fisher', 'sampled_fisher', 'empirical_fisher', 'gradient_covariance'"
    )
    assert "k must be a whole number of 0 or more; got -1" in refusal(lambda: dual_eigenpairs(specimen, k=-1))
    assert refusal(lambda: dual_eigenpairs(specimen, most_rows=21)).startswith(
        "The dual takes at most 1 factors an example here; got 2. Use top_eigenpairs with GaussNewton, fewer examples"
    )
    assert dual_eigenpairs(specimen, most_rows=22).rows == 22
    assert refusal(lambda: dual_eigenpairs(specimen, "empirical_fisher", most_rows=10)).startswith(
        "The dual needs at most 10 rows (examples times factors an example); got 11. Use top_eigenpairs on the map"
    )
    huge = refusal(lambda: dual_eigenpairs(specimen, "sampled_fisher", samples=10**6, generator=seeded(0)))
    assert "got 11,000,000" in huge
    assert "no generator" in refusal(lambda: dual_eigenpairs(specimen, "sampled_fisher"))
    custom = Specimen(randomised(nn.Linear(3, 2)), Concave(), randn(4, 3))
    assert "needs an objective whose loss is -log p(y | outputs); got Concave" in refusal(
        lambda: dual_eigenpairs(custom, "fisher")
    )

    class Mixed(Concave):
        def losses(self, outputs: Tensor, batch: Any) -> Tensor:
            return outputs.logsumexp(1) ** 2 + outputs.square().sum(1)

    wide = Specimen(randomised(nn.Linear(3, 60)), Mixed(), randn(4, 3))
    assert refusal(lambda: dual_eigenpairs(wide)).startswith(
        "Factors of the Gauss-Newton matrix need a loss Hessian in the outputs that can be decomposed; "
        "got the loss Hessian of 60 outputs has no structure that is known. Use GaussNewton with top_eigenpairs"
    )


def test_coupled_examples_are_refused() -> None:
    model = randomised(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))).train()
    data = (randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2]))
    specimen = Specimen(model, Classification(), data, mode="as_is")
    for kind in MATRICES:
        said = refusal(
            lambda kind=kind: dual_eigenpairs(specimen, kind, generator=seeded(0)),  # pyright: ignore[reportArgumentType]
            SpecimenError,
        )
        assert said.startswith("Gradients of single examples need examples that do not influence each other")


@pytest.mark.parametrize("spread", [1.0, 30.0, 3000.0])
def test_the_root_of_a_categorical_covariance(spread: float) -> None:
    p = (spread * randn(4, 3, 6)).softmax(-1)
    root = multinomial_root(p)
    assert root.shape == (4, 3, 6, 5)
    covariance = p.diag_embed() - p[..., :, None] * p[..., None, :]
    torch.testing.assert_close(root @ root.mT, covariance, rtol=1e-9, atol=1e-15)
    assert multinomial_root(torch.ones(2, 1)).shape == (2, 1, 0)


def test_rare_classes_keep_their_relative_precision() -> None:
    """p (1 - p) of the second class, where 1 - p of the first is lost in rounding."""
    p = torch.tensor([1.0, 1e-30], dtype=torch.float64)
    assert float(multinomial_root(p).norm() ** 2) == pytest.approx(2e-30, rel=1e-12)


def test_language_models_too_large_are_refused_before_anything_is_made() -> None:
    model = randomised(nn.Sequential(nn.Embedding(3000, 2), nn.Linear(2, 3000)))
    specimen = Specimen(model, CausalLM(), torch.randint(3000, (2, 20), generator=seeded(0)))
    assert "got 59,980" in refusal(lambda: dual_eigenpairs(specimen))


def test_squared_error_has_a_row_an_output() -> None:
    x = randn(5, 4)
    specimen = Specimen(randomised(nn.Linear(4, 2, bias=False)), Regression(), (x, randn(5, 2)), batch_size=3)
    found = dual_eigenpairs(specimen)
    assert found.rows == 10
    exact = torch.linalg.eigvalsh(x.T @ x / 5).flip(0)  # once for each output, times 2/D = 1
    torch.testing.assert_close(found.values, exact.repeat_interleave(2), rtol=1e-11, atol=1e-13)
