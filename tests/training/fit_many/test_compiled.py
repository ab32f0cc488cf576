"""Compiled steps give what the steps give that they replace, or give way to them with the reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch._inductor as inductor
from torch import Tensor, nn

from torchstone.training.evaluation import cross_entropy, misclassified

K = 3


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.01)


def own_rates(members: Any) -> dict[str, Any]:
    return {
        "inputs": torch.randn(K, 75, 6, generator=seeded(5)),
        "targets": torch.randint(3, (K, 75), generator=seeded(6)),
        "rows": [torch.randint(75, (40,), generator=seeded(k)) for k in range(K)],
        "lr_factors": [1.0, 0.5, 2.0],
        "weight_decay": [0.0, 0.1, 0.01],
    }


class Residual(nn.Module):
    """No chain of layers; a parameter that nothing depends on, and a frozen one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.unused = nn.Linear(6, 6), nn.Linear(6, 3), nn.Linear(2, 2)
        self.norm = nn.BatchNorm1d(6)
        self.first.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x + self.norm(self.first(x)).tanh())


@pytest.fixture
def recorded_only(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """In place of the compiler the recorded operators themselves, which says what is recorded and costs no seconds."""
    graphs: list[Any] = []

    def take(graph: Any, arguments: Any) -> Any:
        graphs.append(graph)
        return graph

    monkeypatch.setattr(inductor, "compile", take)
    return graphs


CASES: dict[str, Callable[[Any], tuple[list[nn.Module], dict[str, Any]]]] = {
    "dense": lambda members: (members.networks(K), {}),
    "batch norm": lambda members: ([members.network(k, nn.BatchNorm1d(16)) for k in range(K)], {}),
    "adam": lambda members: (members.networks(K), {"optimizer": adam}),
    "own data, rates and decay": lambda members: (members.networks(K), own_rates(members)),
    "vmapped": lambda members: ([members.drawn(Residual(), k) for k in range(K)], {}),
    "a penalty and a ledger": lambda members: (
        members.networks(K),
        {
            "penalty": lambda model: 1e-2 * sum(p.square().sum() for p in model.parameters()),
            "ledger": misclassified,
        },
    ),
    "a schedule": lambda members: (
        members.networks(K),
        {"scheduler": lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)},
    ),
    "fewer examples than a batch": lambda members: (members.networks(K), {"batch_size": 100}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_recorded_step_is_the_step(case: str, members: Any, recorded_only: list[Any]) -> None:
    models, settings = CASES[case](members)
    way = "vmapped" if case == "vmapped" else "batched"
    plain = members.together(models, epochs=3, **settings)
    run = members.together(models, epochs=3, compiled=True, **settings)
    assert (plain.way, run.way, run.reason) == (way, f"{way}, compiled", "")
    assert len(recorded_only) == 1
    assert torch.allclose(run.series["train_loss"], plain.series["train_loss"], rtol=1e-5)
    for kind in ("parameters", "buffers"):
        mine, its = getattr(run.ensemble, kind), getattr(plain.ensemble, kind)
        assert mine.keys() == its.keys()
        for name, value in its.items():
            assert torch.allclose(mine[name], value, rtol=2e-5, atol=2e-5), name
    if plain.ledger is not None:
        assert run.ledger is not None
        assert torch.equal(run.ledger, plain.ledger)


def test_the_compiler_gives_what_training_alone_gives(members: Any) -> None:
    draw = lambda *shape: torch.randn(*shape, generator=seeded(2), dtype=torch.float64)
    x, y = draw(50, 1, 6, 6), torch.randint(3, (50,), generator=seeded(3))
    layers = lambda: (nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    models = [members.drawn(nn.Sequential(*layers()).double(), k) for k in range(K)]
    run = members.together(models, x=x, y=y, epochs=2, compiled=True)
    assert (run.way, run.reason) == ("batched, compiled", "")
    for k, model in enumerate(models):
        history = members.alone(model, k, x=x, y=y, epochs=2)
        members.assert_same(run, k, model, 1e-9)
        assert run.series["train_loss"][k].tolist() == pytest.approx(history["train_loss"], rel=1e-9)


def test_dropout_is_drawn_anew_at_each_compiled_step(members: Any) -> None:
    """Six inputs that dropout keeps or not: the loss of a network that stands still is twice the number that it kept."""
    models = [nn.Sequential(nn.Dropout(0.5), nn.Linear(6, 1)) for _ in range(K)]
    for model in models:
        for name, p in model.named_parameters():
            nn.init.constant_(p, float(name == "1.weight"))
    still = lambda parameters: torch.optim.SGD(parameters, lr=0.0)
    runs = [
        members.together(
            models,
            x=torch.ones(64, 6),
            y=torch.zeros(64),
            losses=lambda model, x, _: model(x)[:, 0],
            optimizer=still,
            epochs=20,
            compiled=compiled,
        )
        for compiled in (True, True, False)
    ]
    assert [run.way for run in runs] == ["batched, compiled"] * 2 + ["batched"]
    assert "dropout masks are drawn for all members together" in runs[0].reason
    first, again, eager = (run.series["train_loss"] for run in runs)
    assert torch.equal(first, again), "the same seeds give the same bits"
    # A mean over batches of 64 of twice a binomial of six halves: mean 6, standard deviation sqrt(6 / 64).
    for series in (first, eager):
        assert series.mean() == pytest.approx(6.0, abs=4 * (6 / 64 / 60) ** 0.5)
        assert float(series.std()) == pytest.approx((6 / 64) ** 0.5, rel=0.4)


def test_without_a_compiler_the_training_says_so_and_goes_on(
    members: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("No working C++ compiler found\nat great length")

    monkeypatch.setattr(inductor, "compile", fail)
    models = members.networks(K)
    run, plain = members.together(models, epochs=2, compiled=True), members.together(models, epochs=2)
    assert (run.way, run.reason) == ("batched", "not compiled: No working C++ compiler found")
    assert torch.equal(run.series["train_loss"], plain.series["train_loss"])


@pytest.mark.parametrize("what", ["losses", "a gradient", "running statistics"])
def test_a_compiler_that_errs_is_not_used(what: str, members: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(graph: Any, arguments: list[Tensor]) -> Any:
        def call(*given: Tensor) -> list[Tensor]:
            found = list(graph(*given))
            if what == "running statistics":
                next(t for t in given[6:] if t.is_floating_point()).add_(0.01)
            else:
                place = 0 if what == "losses" else -1
                found[place] = found[place] * 1.01
            return found

        return call

    monkeypatch.setattr(inductor, "compile", wrong)
    models = [members.network(k, nn.BatchNorm1d(16)) for k in range(K)]
    run = members.together(models, epochs=2, compiled=True)
    plain = members.together(models, epochs=2)
    assert (run.way, run.reason) == ("batched", "not compiled: the compiled step gives other numbers")
    assert torch.equal(run.series["train_loss"], plain.series["train_loss"])
    assert all(
        torch.equal(run.ensemble.buffers[name], value) for name, value in plain.ensemble.buffers.items()
    )


def test_what_python_decides_by_a_value_is_told(members: Any) -> None:
    def losses(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        values = cross_entropy(model, x, y)
        return values if float(values.detach().sum()) > 0 else -values

    run = members.together(members.networks(K), losses=losses, epochs=1, compiled=True)
    assert run.way in {"batched", "one by one"}
    assert run.reason


@pytest.mark.parametrize("dropout", [False, True])
def test_what_python_counts_is_found_out(dropout: bool, members: Any, recorded_only: list[Any]) -> None:
    calls = 0

    def losses(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return cross_entropy(model, x, y) * (1 + calls % 7)

    models = [nn.Sequential(nn.Dropout(0.5 if dropout else 0.0), members.network(k)) for k in range(K)]
    run = members.together(models, losses=losses, epochs=1, compiled=True)
    assert len(recorded_only) == 1
    assert "compiled" not in run.way
    assert run.reason.startswith("not compiled: the compiled step gives other numbers")


def test_a_factor_that_is_changed_in_place_counts(members: Any, recorded_only: list[Any]) -> None:
    series = []
    for compiled in (False, True):
        factor = torch.ones(())
        run = members.together(
            members.networks(K),
            losses=lambda model, x, y: factor * cross_entropy(model, x, y),  # noqa: B023
            on_epoch=lambda _: factor.mul_(0.1) and None,  # noqa: B023
            epochs=3,
            compiled=compiled,
        )
        series.append(run.series["train_loss"])
    assert len(recorded_only) == 1
    assert torch.allclose(*series, rtol=1e-5)


def test_an_interrupt_while_compiling_is_the_users(members: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(inductor, "compile", interrupt)
    state = torch.random.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        members.together(members.networks(K), epochs=1, compiled=True)
    assert torch.equal(state, torch.random.get_rng_state())
