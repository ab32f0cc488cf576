from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone import Specimen
from torchstone.errors import SettingError, SpecimenError
from torchstone.objectives import CausalLM, Classification, Regression
from torchstone.operators import Hessian, gauss_newton_trace, hessian_trace
from torchstone.operators.remainder import Remainder
from torchstone.specimens.networks import digits_cnn


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


EXACT = ("relu regression", "batch norm cnn", "linear")


@pytest.mark.parametrize("name", EXACT)
def test_piecewise_linear_networks_are_exact(
    name: str, awkward: Any, dense_hessian: Callable[[Any], Tensor]
) -> None:
    case = awkward(name)
    result = hessian_trace(case.specimen, generator=generator())
    truth = dense_hessian(case)
    assert result.value == pytest.approx(float(truth.trace()), rel=1e-12)
    assert result.exact
    assert (result.probes, result.standard_error) == (0, 0.0)
    assert result.interval() == (result.value, result.value)
    assert result.why.startswith("The outputs are piecewise linear in each parameter")
    for name, part in Hessian(case.specimen).space.slices.items():
        block = float(truth[part, part].trace())
        assert result.per_parameter[name].value == pytest.approx(block, rel=1e-12)


def test_a_convolutional_network_of_the_report_is_exact(dense_hessian: Callable[[Any], Tensor]) -> None:
    """The digits network's architecture, with the dense layers made small enough for a dense diagonal."""
    model = digits_cnn(generator=generator()).double()
    layers: Any = model
    last = nn.Linear(512, 3).double()
    last.weight.data.copy_(0.05 * randn(3, 512))
    last.bias.data.zero_()
    layers[2].weight.requires_grad_(False)
    small = nn.Sequential(*layers[:6], last)
    x, y = randn(6, 1, 8, 8), torch.randint(3, (6,), generator=generator(1))
    specimen = Specimen(small, Classification(), (x, y), batch_size=4)
    result = hessian_trace(specimen, generator=generator())
    diagonal = torch.diagonal(Hessian(specimen).to_dense(block=256))
    assert result.exact
    assert result.value == pytest.approx(float(diagonal.sum()), rel=1e-12)


ESTIMATED = ("tanh mlp", "tied", "unused and frozen", "lstm", "attention", "transformer")


@pytest.mark.parametrize("name", ESTIMATED)
def test_other_networks_are_estimated_within_their_error(
    name: str, awkward: Any, dense_hessian: Callable[[Any], Tensor]
) -> None:
    case = awkward(name)
    # Fewer probes than entries, or the remainder would be computed.
    result = hessian_trace(case.specimen, min_probes=2, max_probes=19, tolerance=1e-9, generator=generator(3))
    truth = dense_hessian(case)
    assert not result.exact
    assert not result.converged
    assert result.probes == 19
    assert abs(result.value - float(truth.trace())) < 4 * result.standard_error
    for part_name, part in Hessian(case.specimen).space.slices.items():
        one, block = result.per_parameter[part_name], float(truth[part, part].trace())
        assert abs(one.value - block) <= 4.5 * one.standard_error + 1e-12
        assert one.exact == (one.standard_error == 0)
    assert result.value == pytest.approx(sum(one.value for one in result.per_parameter.values()))


@pytest.mark.parametrize("name", ESTIMATED)
def test_few_curved_entries_are_computed(
    name: str, awkward: Any, dense_hessian: Callable[[Any], Tensor]
) -> None:
    case = awkward(name)
    result = hessian_trace(case.specimen, max_probes=1000, generator=generator())
    assert result.value == pytest.approx(float(dense_hessian(case).trace()), rel=1e-12)
    assert result.exact
    assert result.standard_error == 0
    assert "computed entry by entry" in result.why


def small_tanh() -> Specimen:
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    for position, parameter in enumerate(model.parameters()):
        parameter.data.copy_(randn(*parameter.shape, seed=position))
    return Specimen(model, Classification(), (randn(5, 3), torch.tensor([0, 1, 0, 1, 1])))


def wider_tanh() -> Specimen:
    model = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 2)).double()
    for position, parameter in enumerate(model.parameters()):
        parameter.data.copy_(0.5 * randn(*parameter.shape, seed=position))
    return Specimen(model, Classification(), (randn(16, 8), torch.randint(2, (16,), generator=generator(1))))


@pytest.mark.parametrize(
    ("min_probes", "tolerance"), [(15, 1e-9), (10, 0.15)], ids=["fixed", "stopped early"]
)
def test_intervals_cover_as_often_as_they_say(
    min_probes: int, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With products of dense matrices, once they are seen to be the same: only the statistics are repeated."""
    specimen = wider_tanh()
    truth = float(Hessian(specimen).to_dense().trace())
    known = gauss_newton_trace(specimen, generator=generator())
    products, dense = Remainder._forms, []

    def forms(self: Remainder, X: Tensor) -> Tensor:
        if not dense:
            assert self.gauss_newton is not None
            dense.append(self.hessian.to_dense() - self.gauss_newton.to_dense())
            torch.testing.assert_close(forms(self, X), products(self, X))
        image = dense[0] @ X
        return torch.stack([(X[part] * image[part]).sum(0) for part in self.hessian.space.slices.values()], 1)

    monkeypatch.setattr(Remainder, "_forms", forms)
    monkeypatch.setattr("torchstone.operators.trace.gauss_newton_trace", lambda *_, **__: known)
    runs, covered = 200, 0
    for seed in range(runs):
        result = hessian_trace(
            specimen, tolerance=tolerance, min_probes=min_probes, max_probes=15, generator=generator(seed)
        )
        low, high = result.interval(0.9)
        covered += low <= truth <= high
    # Binomial(200, 0.9): 166 is 3.3 standard deviations below; 199 as far above.
    assert 166 <= covered <= 199


def test_the_error_of_sampled_outputs_covers_too() -> None:
    model = nn.Sequential(nn.Embedding(9, 3), nn.ReLU(), nn.Linear(3, 9)).double()
    for position, parameter in enumerate(model.parameters()):
        parameter.data.copy_(randn(*parameter.shape, seed=position))
    data = torch.randint(9, (4, 8), generator=generator(3))
    specimen = Specimen(model, CausalLM(), data)
    exact = hessian_trace(specimen, max_columns=72, generator=generator())
    assert exact.exact
    covered = 0
    for seed in range(120):
        result = hessian_trace(specimen, max_columns=8, samples=12, generator=generator(seed))
        assert not result.exact
        low, high = result.interval(0.9)
        covered += low <= exact.value <= high
    # Binomial(120, 0.9): 97 is 3.3 standard deviations below, 119 as far above.
    assert 97 <= covered <= 119
    result = hessian_trace(specimen, max_columns=8, samples=12, generator=generator())
    assert "too many outputs" in result.why


def test_a_tolerance_stops_early_and_reports_it() -> None:
    specimen = wider_tanh()
    loose = hessian_trace(specimen, tolerance=0.5, generator=generator())
    tight = hessian_trace(specimen, tolerance=0.05, max_probes=107, generator=generator())
    assert loose.converged
    assert loose.probes == 20
    assert tight.probes == 107 or tight.standard_error <= 0.05 * abs(tight.value)
    assert tight.converged == (tight.standard_error <= 0.05 * abs(tight.value))


def test_coupled_examples_are_estimated_from_the_hessian_alone(
    dense_hessian: Callable[[Any], Tensor],
) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).double().train()
    for position, parameter in enumerate(model.parameters()):
        parameter.data.copy_(randn(*parameter.shape, seed=position))
    data = (randn(8, 3), torch.tensor([0, 1, 0, 1, 1, 0, 0, 1]))
    specimen = Specimen(model, Classification(), data, mode="as_is").prepared()
    result = hessian_trace(specimen, max_probes=29, tolerance=1e-9, generator=generator())
    truth = float(Hessian(specimen).to_dense().trace())
    assert abs(result.value - truth) < 4 * result.standard_error
    assert "an example's output depends on the rest of its batch" in result.why
    assert result.example_traces.numel() == 0
    assert math.isnan(result.example_standard_error)


def test_the_sampling_error_of_examples_is_that_of_a_mean() -> None:
    """Linear least squares: tr H = 2 mean ||x||^2, of variance 8 d / N for normal x."""
    n, d = 4000, 6
    specimen = Specimen(
        nn.Linear(d, 1, bias=False).double(), Regression(), (randn(n, d), randn(n, 1, seed=1))
    )
    result = hessian_trace(specimen, generator=generator())
    assert result.value == pytest.approx(2 * float(randn(n, d).square().sum(1).mean()), rel=1e-13)
    assert result.example_standard_error == pytest.approx(math.sqrt(8 * d / n), rel=0.1)
    torch.testing.assert_close(result.example_traces, 2 * randn(n, d).square().sum(1))


def test_batches_do_not_matter_and_seeds_do_all() -> None:
    specimen = wider_tanh()
    first = hessian_trace(specimen, generator=generator(1))
    again = hessian_trace(specimen, generator=generator(1))
    other = hessian_trace(specimen, generator=generator(2))
    assert first.probes
    assert first.value == again.value
    assert first.per_parameter == again.per_parameter
    assert first.value != other.value
    data = (randn(16, 8), torch.randint(2, (16,), generator=generator(1)))
    pieces = Specimen(specimen.model, Classification(), data, batch_size=5)
    assert hessian_trace(pieces, generator=generator(1)).value == pytest.approx(first.value, rel=1e-12)


def test_custom_functions_are_estimated_by_differences() -> None:
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

    plain = small_tanh()
    layers: Any = plain.model
    custom = Specimen(
        nn.Sequential(layers[0], Custom(), layers[2]),
        Classification(),
        (randn(5, 3), torch.tensor([0, 1, 0, 1, 1])),
    )
    expected = hessian_trace(plain, generator=generator(1))
    result = hessian_trace(custom, generator=generator(1))
    assert result.value == pytest.approx(expected.value, rel=1e-7)
    assert result.how == "central differences (the second derivative of Once is incomplete)"
    assert result.per_parameter["0.weight"].why == "Once"
    assert expected.exact
    assert not result.exact  # differences have an error of their own


def test_a_custom_function_costs_exactness_even_where_it_agrees_with_differences() -> None:
    """Its backward leaves out a term too small for the comparison to notice, but not too small to be wrong."""

    class Bent(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x + 1e-4 * x**2

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
            return gradient * (1 + 2e-4 * ctx.saved_tensors[0].detach())

    class Custom(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            made: Any = Bent.apply(x)
            return made

    layers: Any = small_tanh().model
    model = nn.Sequential(layers[0], Custom(), layers[2])
    specimen = Specimen(model, Classification(), (randn(5, 3), torch.tensor([0, 1, 0, 1, 1])))
    result = hessian_trace(specimen, generator=generator())
    assert "computed entry by entry" in result.why
    assert result.how == "double backward, through Bent too, which agreed with differences to 2%"
    assert not result.exact
    assert [part.exact for part in result.per_parameter.values()] == [False, False, True, True]


def test_a_network_that_calls_functional_autograd_itself() -> None:
    class Force(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(randn(3, 4))

        def forward(self, x: Tensor) -> Tensor:
            energy = lambda one: torch.tanh(one @ self.weight).sum()
            return torch.func.vmap(torch.func.grad(energy))(x)

    class Written(Force):
        def forward(self, x: Tensor) -> Tensor:
            return (1 - torch.tanh(x @ self.weight) ** 2) @ self.weight.T

    values = [
        hessian_trace(Specimen(model, Regression(), (randn(5, 3), randn(5, 3))), generator=generator()).value
        for model in (Force(), Written())
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-12)


class Summed(Regression):
    def losses(self, outputs: Tensor, batch: Any) -> Tensor:
        return outputs.flatten(1).sum(1)


@pytest.mark.parametrize(
    "model",
    [nn.Linear(3, 2), nn.Sequential(nn.Conv1d(1, 2, 2), nn.ReLU(), nn.Conv1d(2, 1, 2))],
    ids=["linear", "convolutions"],
)
def test_losses_affine_in_the_outputs_have_trace_zero(model: nn.Module) -> None:
    shape = (4, 3) if isinstance(model, nn.Linear) else (4, 1, 3)
    specimen = Specimen(model.double(), Summed(), (randn(*shape), randn(*shape)))
    result = hessian_trace(specimen, generator=generator())
    assert (result.value, result.exact, result.columns) == (0.0, True, 0)


def test_a_loss_without_second_derivative_is_differenced() -> None:
    """The square multi-margin loss: PyTorch has no second derivative of it; written out, it has."""

    class Margin(Classification):
        def losses(self, outputs: Tensor, batch: Any) -> Tensor:
            return nn.functional.multi_margin_loss(outputs, batch[1], p=2, reduction="none")

    class Written(Classification):
        def losses(self, outputs: Tensor, batch: Any) -> Tensor:
            margins = 1 - outputs.gather(1, batch[1][:, None]) + outputs
            others = 1 - nn.functional.one_hot(batch[1], 2).double()
            return (margins.relu().square() * others).sum(1) / 2

    data = (randn(5, 3), torch.tensor([0, 1, 0, 1, 1]))
    model = small_tanh().model
    result = hessian_trace(Specimen(model, Margin(), data), generator=generator())
    expected = hessian_trace(Specimen(model, Written(), data), generator=generator())
    assert result.value == pytest.approx(expected.value, rel=1e-7)
    assert expected.exact
    assert not result.exact
    assert "the loss cannot be differentiated twice" in result.why
    assert result.how.startswith("central differences")


def test_no_columns_at_all_may_be_asked_for() -> None:
    model = nn.Sequential(nn.Conv1d(1, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)).double()
    specimen = Specimen(model, Classification(), (randn(6, 1, 5), torch.tensor([0, 1, 0, 2, 1, 0])))
    exact = hessian_trace(specimen, generator=generator())
    sampled = hessian_trace(specimen, max_columns=0, samples=30, generator=generator())
    assert sampled.sampled_columns == 30
    assert abs(sampled.value - exact.value) < 5 * sampled.standard_error


def test_settings_out_of_range_are_refused() -> None:
    specimen = small_tanh()
    with pytest.raises(SettingError, match=r"tolerance must be positive; got 0\.0"):
        hessian_trace(specimen, tolerance=0.0, generator=generator())
    with pytest.raises(SettingError, match="min_probes must be at least 2; got 1"):
        hessian_trace(specimen, min_probes=1, generator=generator())
    with pytest.raises(SettingError, match="max_probes must be at least 20; got 9"):
        hessian_trace(specimen, max_probes=9, generator=generator())
    with pytest.raises(SettingError, match="samples must be at least 2; got 1"):
        hessian_trace(specimen, samples=1, generator=generator())
    frozen = Specimen(
        nn.Linear(2, 2).requires_grad_(False), Classification(), (torch.zeros(2, 2), torch.tensor([0, 1]))
    )
    with pytest.raises(SpecimenError, match="at least one trainable parameter"):
        hessian_trace(frozen, generator=generator())
