"""The rows of the table of bounds, each against its own formula on networks where everything is known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from torchstone.bounds.dense import DenseLayer
from torchstone.bounds.l1_margin import l1_margin_bound
from torchstone.bounds.margin import margins, path_norm
from torchstone.bounds.pac_bayes import mcallester, pac_bayes_kl
from torchstone.bounds.piecewise_growth import LayerSize, piecewise_linear_log_growth
from torchstone.bounds.prior_grid import CentredGrid
from torchstone.bounds.weight_size import largest_coordinate_norm, weight_size
from torchstone.errors import NotApplicableError
from torchstone.objectives import Classification
from torchstone.operators.parameter_space import ParameterSpace
from torchstone.recipe import Recipe
from torchstone.specimen import Specimen
from torchstone.training.evaluation import cross_entropy
from torchstone.training.fit import fit
from torchstone.workbench import Workbench
from torchstone.workbench.chain import chain
from torchstone.workbench.error_bounds import error_bounds
from torchstone.workbench.gaussian_posterior import _Posterior, gaussian_posterior_bound

N, DELTA = 300, 0.05


def law(n: int, seed: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed))
    return x, (x[:, 0] + 0.3 * x[:, 1] > 0).long()


def trained(model: nn.Module, seed: int = 0, n: int = N) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    x, y = law(n, seed)
    sgd = torch.optim.SGD(model.parameters(), lr=0.2)
    fit(model, cross_entropy, x, y, optimizer=sgd, batch_size=32, epochs=15, generator=generator)
    return model


def network(activation: nn.Module | None = None) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 8), activation or nn.ReLU(), nn.Linear(8, 2))


def bench(model: nn.Module, data: Any = None, **options: Any) -> Workbench:
    test = law(500, 1) if data is None else None
    specimen = Specimen(model, Classification(), data or law(N, 0), test, **options)
    return Workbench.on(specimen)


def test_rows_by_their_formulas() -> None:
    model = trained(network())
    on = bench(model)
    found = {one.name: one for one in error_bounds(on, DELTA, 2)[0]}
    x, y = law(N, 0)
    first, last = model[0], model[2]  # pyright: ignore[reportIndexIssue]
    with torch.no_grad():
        wrong = float((model(x).argmax(1) != y).double().mean())
        margin = margins(model(x), y)
    bits = 32 * (8 * 4 + 2 * 9)
    expected = wrong + math.sqrt((bits * math.log(2) + math.log(1 / DELTA)) / (2 * N))
    assert found["description length"].value == pytest.approx(expected, rel=1e-9)
    growth = piecewise_linear_log_growth([LayerSize(32, 8), LayerSize(18, 1)], N)
    expected = wrong + math.sqrt(2 * growth / N) + math.sqrt(math.log(1 / DELTA) / (2 * N))
    assert found["counting weights (VC)"].value == pytest.approx(expected, rel=1e-9)
    rate = math.sqrt(50 * 2 * math.log(50) / N)
    assert found["rate sqrt(W L ln W / n)"].value == pytest.approx(wrong + rate, rel=1e-9)
    assert found["rate sqrt(W L ln W / n)"].rate
    coordinate = largest_coordinate_norm(x, constant=True)
    size = weight_size([DenseLayer(layer.weight.detach(), layer.bias.detach()) for layer in (first, last)])
    paths = path_norm([first.weight, last.weight], [first.bias, last.bias], order=1)
    for name, norm in (("weight size (l1)", size.value), ("path norm (l1)", paths)):
        expected = l1_margin_bound(margin, norm, coordinate, 4, 2, 2).value
        assert found[name].value == pytest.approx(expected, rel=1e-6)
    assert found["path norm (l1)"].value <= found["weight size (l1)"].value


def test_held_out_rows_are_one_sided_limits() -> None:
    from scipy.stats import binom

    on = bench(trained(network()))
    found = {one.name: one for one in error_bounds(on, DELTA, 0)[0]}
    wrong = int(on.errors("test").sum())
    exact = found["test set, Clopper-Pearson"].value
    assert binom.cdf(wrong, 500, exact) == pytest.approx(DELTA, rel=1e-6)
    expected = wrong / 500 + math.sqrt(math.log(1 / DELTA) / 1000)
    assert found["test set, Hoeffding"].value == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_all_are_above_the_error_on_a_large_fresh_sample(seed: int) -> None:
    model = trained(network(), seed)
    x, y = law(20_000, 99)
    with torch.no_grad():
        error = float((model(x).argmax(1) != y).double().mean())
    specimen = Specimen(model, Classification(), law(N, seed), law(500, 50 + seed))
    found, skipped = error_bounds(Workbench.on(specimen), 0.001, 3)
    assert not skipped
    assert len([one for one in found if not one.rate]) == 9
    assert all(one.value >= error for one in found)


def test_many_examples_make_counting_say_something() -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    on = bench(trained(model, n=2000), law(20_000, 5))
    found = {one.name: one.value for one in error_bounds(on, DELTA, 100)[0]}
    assert found["counting weights (VC)"] < 0.3
    assert found["PAC-Bayes, Gaussian weights"] < 0.3


def test_pooling_by_maximum_multiplies_and_is_seen() -> None:
    pooled = nn.Sequential(
        nn.Conv1d(1, 4, 3, bias=False), nn.ReLU(), nn.MaxPool1d(3), nn.Flatten(), nn.Linear(8, 2, bias=False)
    )
    x = torch.randn(60, 1, 8, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0, 0] > 0).long()
    on = bench(pooled, (x, y))
    layers = chain(on.specimen)
    assert [one.maximum for one in layers] == [3, 1]
    assert layers[0].between[0] == "ReluBackward0"
    assert layers[0].between[1].startswith("MaxPool")
    assert [one.activation for one in layers] == [1.0, 1.0]
    found = {one.name: one.value for one in error_bounds(on, DELTA, 0)[0]}
    margin, coordinate = margins(pooled(x).detach(), y), largest_coordinate_norm(x)
    size = weight_size([one.layer for one in layers])
    expected = l1_margin_bound(margin, size.value, coordinate, 8, 2, 2, maxima=(3,)).value
    assert found["weight size (l1)"] == pytest.approx(expected, rel=1e-6)
    # Units are 24, and each of their windows compares 3 pairs.
    growth = piecewise_linear_log_growth([LayerSize(12, 24 * 4), LayerSize(16, 1)], 60)
    wrong = float((pooled(x).argmax(1) != y).double().mean())
    expected = wrong + math.sqrt(2 * growth / 60) + math.sqrt(math.log(1 / DELTA) / 120)
    assert found["counting weights (VC)"] == pytest.approx(expected, rel=1e-9)


def test_smooth_activations_have_no_paths_and_no_count() -> None:
    found, skipped = error_bounds(bench(trained(network(nn.Tanh()))), DELTA, 0)
    reasons = {one.name: one.reason for one in skipped}
    assert "Tanh" in reasons["counting weights (VC)"]
    assert "Tanh" in reasons["path norm (l1)"]
    assert {"weight size (l1)", "spectral margin, M = identity"} <= {one.name for one in found}


def test_tanh_carries_biases_by_themselves() -> None:
    model, (x, y) = trained(network(nn.Tanh())), law(N, 0)
    found = {one.name: one.value for one in error_bounds(bench(model), DELTA, 0)[0]}
    dense = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    size = weight_size([DenseLayer(layer.weight.detach(), layer.bias.detach()) for layer in dense]).value
    coordinate = largest_coordinate_norm(x, constant=True)
    with torch.no_grad():
        margin = margins(model(x), y)
    expected = l1_margin_bound(margin, size, coordinate, 4, 2, 2, branches=3).value
    assert found["weight size (l1)"] == pytest.approx(expected, rel=1e-6)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x + torch.relu(self.layer(x)))


def test_networks_that_are_no_chain_keep_what_needs_none() -> None:
    found, skipped = error_bounds(bench(trained(Residual())), DELTA, 2)
    names = {one.name for one in found}
    assert {"description length", "PAC-Bayes, Gaussian weights", "test set, Hoeffding"} <= names
    assert {one.name for one in skipped} >= {"spectral margin", "weight size (l1)"}
    assert all("not a chain" in one.reason for one in skipped)


def test_running_statistics_are_no_prior() -> None:
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)).eval()
    found, skipped = error_bounds(bench(model), DELTA, 2)
    assert [one.name for one in skipped] == ["PAC-Bayes"]
    assert "running statistics" in skipped[0].reason
    # They are stored numbers like the others: 8 means and 8 variances.
    [described] = [one for one in found if one.name == "description length"]
    assert f"{32 * (32 + 16 + 18 + 16):,} bits" in described.assumes


def test_initial_weights_serve_twice_and_may_be_unfit() -> None:
    model = trained(network())
    start = {name: value.clone() for name, value in model.state_dict().items()}
    on = bench(model, recipe=Recipe(initial_state=start))
    found = {one.name: one for one in error_bounds(on, DELTA, 2)[0]}
    assert found["spectral margin, M = initial weights"].value < found["spectral margin, M = zero"].value
    assert "initial weights" in found["PAC-Bayes, Gaussian weights"].assumes
    unfit = bench(model, recipe=Recipe(initial_state={"0.weight": torch.zeros(1, 1)}))
    bounds, skipped = error_bounds(unfit, DELTA, 2)
    assert {"spectral margin, M = zero", "spectral margin, M = identity"} <= {one.name for one in bounds}
    assert [one.name for one in skipped] == ["spectral margin"]
    assert any("prior at zero" in one.assumes for one in bounds)


def test_without_test_examples_and_without_draws() -> None:
    specimen = Specimen(trained(network()), Classification(), law(N, 0))
    found, skipped = error_bounds(Workbench.on(specimen), DELTA, 0)
    assert not any(one.held_out for one in found)
    assert {one.name: one.reason for one in skipped} == {
        "test set": "needs test examples",
        "PAC-Bayes": "left out by the setting draws=0",
    }


def test_the_divergence_is_that_of_two_gaussians() -> None:
    model = trained(network())
    on = bench(model)
    space = ParameterSpace.of(on.specimen)
    weights = space.values().double()
    moved = float(weights.square().sum())
    posterior = _Posterior(on.specimen, space, moved, DELTA, torch.Generator().manual_seed(0))
    for noise in (0.01, 0.2, 3.0):
        divergence, index = posterior.divergence(noise)
        prior = Normal(torch.zeros_like(weights), CentredGrid(0.01, precision=20).variance(index) ** 0.5)
        exact = float(kl_divergence(Normal(weights, noise), prior).sum())
        assert divergence == pytest.approx(exact, rel=1e-9)
        left = CentredGrid(0.01, precision=20).delta(index, 0.8 * DELTA)
        kl = pac_bayes_kl(0.1, divergence, N, left).value
        expected = kl if kl < 1 - 1e-9 else mcallester(0.1, divergence, N, left).value
        assert posterior.bound(noise, 0.1) == pytest.approx(expected)


def test_the_noisy_networks_leave_the_network_alone_and_repeat() -> None:
    model = trained(network())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = [gaussian_posterior_bound(bench(model), DELTA, 3) for _ in range(2)]
    assert found[0] == found[1]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert found[0].centre == "zero"
    assert found[0].noise > 0


def test_noise_is_measured_as_noise() -> None:
    """At a noise far above the weights the network guesses; at none it is itself."""
    on = bench(trained(network()))
    space = ParameterSpace.of(on.specimen)
    posterior = _Posterior(on.specimen, space, 1.0, DELTA, torch.Generator().manual_seed(0))
    assert posterior.error(1e-9, 2) == pytest.approx(float(on.errors("train").double().mean()))
    assert posterior.error(1e3, 200) == pytest.approx(0.5, abs=0.08)


def test_nothing_to_train() -> None:
    model = network().requires_grad_(False)
    with pytest.raises(NotApplicableError, match="nothing to train"):
        gaussian_posterior_bound(bench(model), DELTA, 2)
