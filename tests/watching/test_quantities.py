"""Each watched quantity against its definition, on networks small enough to compute everything."""

from __future__ import annotations

import itertools
import math
import statistics

import pytest
import torch
from torch import Tensor, nn

from torchstone.objectives import Classification, Regression
from torchstone.specimen import Specimen
from torchstone.watching.probe import probe
from torchstone.watching.quantities import choose, gradient_noise
from torchstone.watching.quantities.forgetting import Forgetting
from torchstone.watching.quantities.noise import Noise
from torchstone.watching.quantities.step_curvature import StepCurvature
from torchstone.watching.quantities.stopping import EarlyStopping, is_real
from torchstone.watching.quantities.training import Gradient
from torchstone.watching.quantities.weights import Balance, StableRanks, homogeneous_pairs
from torchstone.watching.state import State
from torchstone.workbench import Workbench

F64 = torch.float64


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    g = generator()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=g, dtype=F64) / 2)
    return model


def data(count: int = 60, seed: int = 1) -> tuple[Tensor, Tensor]:
    g = generator(seed)
    return torch.randn(count, 5, generator=g, dtype=F64), torch.randint(3, (count,), generator=g)


def state(model: nn.Module, bench: Workbench | None = None, *, lr: float = 0.1, step: int = 1) -> State:
    """After one step of gradient descent on the whole of the data."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    x, y = data()
    gradients = torch.autograd.grad(nn.functional.cross_entropy(model(x), y), list(named.values()))
    before = tuple(p.detach().clone() for p in named.values())
    with torch.no_grad():
        for parameter, gradient in zip(named.values(), gradients, strict=True):
            parameter.sub_(lr * gradient)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    norms = tuple(float(gradient.norm()) for gradient in gradients)
    return State(step, 1.0, tuple(named), tuple(named.values()), norms, before, optimizer, bench)


def bench_of(model: nn.Module, batch_size: int | None = None) -> Workbench:
    specimen = Specimen(model, Classification(), data(), data(40, 2))
    found = probe(specimen, model, torch.optim.SGD(model.parameters(), lr=0.1), None, batch_size)
    assert found is not None
    return found


def test_updates_take_the_memory_of_what_was_before_unless_others_need_it() -> None:
    now = state(network())
    assert now.before is not None
    before = now.before
    expected = [p.detach() - b for p, b in zip(now.parameters, before, strict=True)]
    copies = [b.clone() for b in before]
    for found in (now.take_updates(), now.take_updates()):
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before, copies, strict=True))
    now.shared = False
    found = now.take_updates()
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert now.before is None
    assert [a.data_ptr() for a in found] == [b.data_ptr() for b in before]


def test_gradient_and_update_norms() -> None:
    model = network()
    now = state(model)
    found = Gradient().measure(now)
    assert now.gradient_norms is not None
    assert now.before is not None
    norm = math.hypot(*now.gradient_norms)
    size = float(torch.cat([p.detach().flatten() for p in now.parameters]).norm())
    assert found.values["gradient_norm"] == pytest.approx(norm, rel=1e-6)
    assert found.values["update_norm"] == pytest.approx(0.1 * norm, rel=1e-6)
    assert found.values["update_ratio"] == pytest.approx(0.1 * norm / size, rel=1e-6)
    assert list(found.layers["gradient_norm"]) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert found.layers["update_ratio"]["2.weight"] == pytest.approx(
        0.1 * now.gradient_norms[2] / float(now.parameters[2].detach().norm()), rel=1e-6
    )


def test_gradient_noise_from_inner_products() -> None:
    g = generator()
    gradients = 0.3 + torch.randn(40, 7, generator=g, dtype=F64)
    found = gradient_noise(gradients @ gradients.T)
    mean, covariance = gradients.mean(0), torch.cov(gradients.T)
    trace = float(covariance.trace())
    assert found.covariance_trace == pytest.approx(trace, rel=1e-10)
    assert found.squared_norm == pytest.approx(float(mean @ mean) - trace / 40, rel=1e-10)
    sizes = found.batch_sizes()
    assert sizes["norm"] == pytest.approx(found.noise_scale / 0.9**2)


def test_u_statistics_are_means_over_different_examples() -> None:
    """Against sums over all triples and quadruples of different examples, the definition; error bar: leaving one out."""
    gradients = 1.5 + torch.randn(7, 3, generator=generator(), dtype=F64)
    gram = gradients @ gradients.T
    found = gradient_noise(gram)
    triples = [float(gram[a, b] * gram[a, c]) for a, b, c in itertools.permutations(range(7), 3)]
    fours = [float(gram[a, b] * gram[c, d]) for a, b, c, d in itertools.permutations(range(7), 4)]
    along, fourth = statistics.fmean(triples), statistics.fmean(fours)
    assert found.inner_variance == pytest.approx(max(0.0, along - fourth), rel=1e-10)
    size = float(gram.diagonal().mean())
    assert found.orthogonal == pytest.approx(max(0.0, size - along / found.squared_norm), rel=1e-10)
    without = [
        gradient_noise(gram[rows][:, rows]).squared_norm
        for rows in ([m for m in range(7) if m != n] for n in range(7))
    ]
    spread = 6 / 7 * sum((one - statistics.fmean(without)) ** 2 for one in without)
    assert found.squared_norm_error == pytest.approx(math.sqrt(spread), rel=1e-10)


def test_the_noise_scale_is_unbiased_in_its_parts_and_infinite_for_noise() -> None:
    g = generator()
    draws, covered = [], 0
    scale = 5 / (5 * 0.2**2)
    for _ in range(2000):
        gradients = 0.2 + torch.randn(20, 5, generator=g, dtype=F64)
        found = gradient_noise(gradients @ gradients.T)
        draws.append((found.squared_norm, found.covariance_trace))
        covered += found.surely_at_least <= scale
    squares, traces = (torch.tensor(part, dtype=F64) for part in zip(*draws, strict=True))
    for values, truth in ((squares, 5 * 0.2**2), (traces, 5.0)):
        assert abs(float(values.mean()) - truth) < 4 * float(values.std()) / len(values) ** 0.5
    # Three standard errors on one side cover 99.9% of a normal estimate; skewness and 20 examples take some of it.
    assert covered > 0.97 * len(draws)
    pure = torch.randn(4, 3, generator=g, dtype=F64)
    pure -= pure.mean(0)
    assert gradient_noise(pure @ pure.T).noise_scale == math.inf


def test_noise_on_a_probe_and_its_alert() -> None:
    model = network()
    found = Noise().measure(state(model, bench_of(model, batch_size=1)))
    assert found.values["noise_scale"] > 0
    assert found.values["signal_to_noise"] > 0
    assert set(found.values) >= {"norm_test", "inner_product_test", "orthogonality_test"}
    constant = nn.Linear(5, 3).double()
    nn.init.zeros_(constant.weight)
    nn.init.zeros_(constant.bias)
    noise = Specimen(constant, Classification(), data(960))  # labels that have nothing to do with the inputs
    bench = probe(noise, constant, torch.optim.SGD(constant.parameters(), lr=0.1), None, 1, 960)
    noisy = Noise().measure(state(constant, bench))
    assert noisy.values["noise_scale"] > 100
    assert [alert.kind for alert in noisy.alerts] == ["noise-dominated"]


def quadratic(lr: float) -> dict[str, float]:
    """Steps on f(w) = 3 w^2 / 2, of which everything is known."""
    model = nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        model.weight.fill_(2.0)
    x = torch.full((8, 1), math.sqrt(1.5), dtype=F64)
    specimen = Specimen(model, Regression(), (x, torch.zeros(8, 1, dtype=F64)))
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    bench = probe(specimen, model, optimizer, None, None)
    before = (model.weight.detach().clone(),)
    with torch.no_grad():
        model.weight.sub_(lr * 3 * 2.0)
    after = model.weight.detach().clone()
    now = State(1, 0.0, ("weight",), tuple(model.parameters()), (6.0,), before, optimizer, bench)
    found = StepCurvature().measure(now)
    assert torch.equal(model.weight, after)
    return found.values


@pytest.mark.parametrize(("lr", "alpha"), [(1 / 6, -0.5), (1 / 3, 0.0), (2 / 3, 1.0), (1.0, 2.0)])
def test_alpha_says_where_a_step_lands_on_a_parabola(lr: float, alpha: float) -> None:
    values = quadratic(lr)
    assert values["alpha"] == pytest.approx(alpha, abs=1e-9)
    assert values["step_curvature"] == pytest.approx(3.0, rel=1e-9)
    assert values["step_decrease"] == pytest.approx(1.5 * (4 - (2 - 6 * lr) ** 2), abs=1e-9)


def test_forgetting_counts_what_was_right_and_is_not() -> None:
    model = network()
    bench = bench_of(model)
    ledger = Forgetting()
    assert ledger.ledger is None
    first = ledger.measure(state(model, bench))
    x, y = bench.specimen.splits["train"].source
    right = model(x).argmax(1) == y
    assert first.values["probe_accuracy"] == pytest.approx(float(right.double().mean()))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.neg_()
    then = model(x).argmax(1) == y
    second = ledger.measure(state(model, bench, lr=0.0))
    assert second.values["forgotten"] == int((right & ~then).sum())
    assert ledger.ledger is not None
    assert torch.equal(ledger.ledger == -1, ~(right | then))
    assert second.values["never_forgotten"] == pytest.approx(
        float(((right | then) & ~(right & ~then)).double().mean())
    )


def test_early_stopping_is_prechelts_criterion() -> None:
    """Scaling the weights makes a network surer: better on labels that it has right, worse on those it has wrong."""
    model = network()
    (x, _), (test_x, _) = data(), data(40, 2)
    right, wrong = model(x).argmax(1), model(test_x).argmin(1)
    for labels, kinds in ((right, ["overfitting"]), (model(x).argmin(1), [])):
        model = network()
        specimen = Specimen(model, Classification(), (x, labels), (test_x, wrong))
        bench = probe(specimen, model, torch.optim.SGD(model.parameters(), lr=0.1), None, None)
        quantity = EarlyStopping()
        quantity.measure(state(model, bench, lr=0.0))
        best = quantity.best
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.5)
        found = quantity.measure(state(model, bench, lr=0.0, step=7))
        rise = 100 * (found.values["test_loss"] / best - 1)
        assert rise > 5
        assert found.values["generalisation_loss"] == pytest.approx(rise)
        # Where the training loss rises as well, steps are too large: that is no overfitting.
        assert [alert.kind for alert in found.alerts] == kinds
    assert is_real(torch.tensor([1.0, 1.1, 0.9, 1.0]))
    assert not is_real(torch.tensor([1.0, -1.0, 2.0, 0.0]))
    assert not is_real(torch.tensor([1.0]))


def test_balance_is_conserved_by_small_steps_and_not_by_large_ones() -> None:
    drifts = {}
    for lr in (1e-3, 1e-1):
        model = network()
        balance = Balance(model)
        balance.measure(state(model, lr=0.0))
        for _ in range(int(0.02 / lr) or 1):
            state(model, lr=lr)
        drifts[lr] = balance.measure(state(model, lr=0.0)).values["balance_drift"]
    # Gradient flow conserves |W_1|^2 + |b_1|^2 - |W_2|^2; a step of size lr changes it by O(lr^2).
    assert drifts[1e-3] < 1e-3
    assert drifts[1e-1] > 10 * drifts[1e-3]
    assert [name for name, _, _ in homogeneous_pairs(network())] == ["0 to 2"]
    assert not homogeneous_pairs(nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2)))


def test_stable_ranks_approach_the_exact_ones() -> None:
    model = network()
    quantity = StableRanks()
    for _ in range(9):
        quantity.measure(state(model, lr=0.0))
    found = quantity.measure(state(model, lr=0.0))
    for name in ("0.weight", "2.weight"):
        values = torch.linalg.svdvals(model.get_parameter(name).detach())
        exact = float(values.square().sum() / values[0] ** 2)
        assert found.layers["stable_rank"][name] == pytest.approx(exact, rel=1e-3)
    assert found.values["stable_rank"] == min(found.layers["stable_rank"].values())


def test_quantities_by_name() -> None:
    names = [quantity.key for quantity in choose("all", network())]
    assert {"loss", "gradient", "noise", "stability_edge", "activation_health"} <= set(names)
    assert [quantity.key for quantity in choose("margins", network())] == ["margins"]
    with pytest.raises(Exception, match="quantities must be names; got 'speed'"):
        choose("speed", network())
