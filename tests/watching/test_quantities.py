"""Each watched quantity against its definition, on networks small enough to compute everything."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from torchstone.objectives import Classification, Regression
from torchstone.specimen import Specimen
from torchstone.watching.alerts import Alerts, diverging, exploding, stuck, vanishing
from torchstone.watching.probe import probe
from torchstone.watching.quantities import choose, gradient_noise
from torchstone.watching.quantities.forgetting import Forgetting
from torchstone.watching.quantities.noise import Noise
from torchstone.watching.quantities.step_curvature import StepCurvature
from torchstone.watching.quantities.stopping import EarlyStopping
from torchstone.watching.quantities.training import Gradient
from torchstone.watching.quantities.weights import Balance, StableRanks, homogeneous_pairs
from torchstone.watching.record import Record
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
    inner = gradients @ mean
    assert found.inner_variance == pytest.approx(float(inner.var()), rel=1e-10)
    orthogonal = gradients - (inner / (mean @ mean))[:, None] * mean
    assert found.orthogonal == pytest.approx(float(orthogonal.square().sum(1).mean()), rel=1e-10)
    sizes = found.batch_sizes()
    assert sizes["norm"] == pytest.approx(found.noise_scale / 0.9**2)


def test_the_noise_scale_is_unbiased_in_its_parts_and_infinite_for_noise() -> None:
    g = generator()
    draws = []
    for _ in range(2000):
        gradients = 0.2 + torch.randn(20, 5, generator=g, dtype=F64)
        found = gradient_noise(gradients @ gradients.T)
        draws.append((found.squared_norm, found.covariance_trace))
    squares, traces = (torch.tensor(part, dtype=F64) for part in zip(*draws, strict=True))
    for values, truth in ((squares, 5 * 0.2**2), (traces, 5.0)):
        assert abs(float(values.mean()) - truth) < 4 * float(values.std()) / len(values) ** 0.5
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
    x, _ = data()
    balanced = Specimen(constant, Classification(), (torch.cat([x, -x]), torch.arange(120) % 3))
    bench = probe(balanced, constant, torch.optim.SGD(constant.parameters(), lr=0.1), None, 1)
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
    model = network()
    quantity = EarlyStopping()
    quantity.measure(state(model, bench_of(model), lr=0.0))
    best = quantity.best
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    found = quantity.measure(state(model, bench_of(model), lr=0.0, step=7))
    rise = 100 * (found.values["test_loss"] / best - 1)
    assert found.values["generalisation_loss"] == pytest.approx(rise)
    assert [alert.kind for alert in found.alerts] == ["overfitting"]
    assert "best at step 1" in found.alerts[0].message


def test_balance_is_conserved_by_small_steps_and_not_by_large_ones() -> None:
    drifts = {}
    for lr in (1e-4, 1e-1):
        model = network()
        balance = Balance(model)
        balance.measure(state(model, lr=0.0))
        for _ in range(int(0.02 / lr) or 1):
            state(model, lr=lr)
        drifts[lr] = balance.measure(state(model, lr=0.0)).values["balance_drift"]
    # Gradient flow conserves |W_1|^2 + |b_1|^2 - |W_2|^2; a step of size lr changes it by O(lr^2).
    assert drifts[1e-4] < 1e-4
    assert drifts[1e-1] > 10 * drifts[1e-4]
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


def record(step: int, loss: float = 1.0, **values: float) -> Record:
    return Record(step, float(step), {"loss": loss, **values})


def test_divergence_is_a_loss_that_is_not_finite_or_rises_for_good() -> None:
    assert diverging([record(1, math.nan)])[0].severity == "poor"
    falling = [record(i, 1 / i) for i in range(1, 60)]
    assert not diverging(falling)
    assert not diverging([*falling, record(60, 5.0)])  # a single bad batch is no divergence
    rising = [record(i, 1 + i / 20) for i in range(1, 60)]
    assert diverging(rising)[0].kind == "diverging"
    assert not diverging([])


def test_vanishing_is_an_update_that_rounding_swallows() -> None:
    layers = {"update_ratio": {"a": 1e-9, "b": 1e-3, "c": 0.5}, "weight_norm": {"a": 1.0, "b": 1.0, "c": 1.0}}
    now = Record(50, 1.0, {}, {**layers, "gradient_norm": {"a": math.nan}})
    rounding = {"a": 2.0**-24, "b": 2.0**-24}
    assert [alert.layer for alert in vanishing(now, rounding)] == ["a"]
    assert not vanishing(now, {"a": 2.0**-53, "b": 2.0**-53})
    assert {(alert.kind, alert.layer) for alert in exploding(now)} == {
        ("exploding", "a"),
        ("large steps", "c"),
    }


def test_stuck_is_no_progress_without_a_gradient() -> None:
    flat = [record(i, 2.3, gradient_norm=1.0 if i < 5 else 1e-6) for i in range(1, 100)]
    assert [alert.kind for alert in stuck(flat)] == ["stuck"]
    assert not stuck([record(i, 2.3, gradient_norm=1.0) for i in range(1, 100)])
    assert not stuck([record(i, 2.3 / i, gradient_norm=1 / i**3) for i in range(1, 100)])


def test_alerts_are_said_once_until_they_recover() -> None:
    alerts = Alerts({})
    bad, good = record(1, math.inf), record(2, 0.5)
    assert len(alerts.after([bad], [], [])) == 1
    assert not alerts.after([bad, record(2, math.inf)], [], [])
    assert not alerts.after([bad, good], [], [])
    assert len(alerts.after([bad, good, record(3, math.nan)], [], [])) == 1
