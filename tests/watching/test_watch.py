"""The watcher in training loops of every kind: it sees what the optimiser sees, keeps its budget and never kills a run."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor, nn

import torchstone
from torchstone.errors import SettingError
from torchstone.objectives import Classification
from torchstone.specimen import Specimen
from torchstone.testing import model_state, same_state
from torchstone.watching import TrainingWarning, Watch, watch
from torchstone.watching.record import Record, Series, alert_of, plain, record_of


def network(seed: int = 0) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 3))
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=g) / 3)
    return model


def data(count: int = 96) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(3)
    x = torch.randn(count, 6, generator=g)
    return x, (x @ torch.randn(6, 3, generator=g)).argmax(1)


def train(
    model: nn.Module, watcher: Watch | None, optimizer: torch.optim.Optimizer, steps: int = 12
) -> list[float]:
    x, y = data()
    losses = []
    state = torch.Generator().manual_seed(5).get_state()
    with torch.random.fork_rng():
        torch.set_rng_state(state)
        for step in range(steps):
            rows = slice(step * 8 % 88, step * 8 % 88 + 8)
            loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
            if watcher is not None:
                watcher.step(loss)
    return losses


def test_training_is_bit_for_bit_what_it_is_without_a_watcher() -> None:
    plain_model, watched = network(), network()
    alone = train(plain_model, None, torch.optim.Adam(plain_model.parameters(), lr=0.01), 5)
    optimizer = torch.optim.Adam(watched.parameters(), lr=0.01)
    with watch(watched, optimizer, data(), every=1, quantities="all", show=False) as watcher:
        seen = train(watched, watcher, optimizer, 5)
    assert seen == alone
    assert same_state(model_state(watched), model_state(plain_model)) or all(
        torch.equal(a, b)
        for a, b in zip(watched.state_dict().values(), plain_model.state_dict().values(), strict=True)
    )
    assert [record.step for record in watcher.records] == list(range(1, 6))
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


def test_what_is_seen_is_what_the_optimizer_saw() -> None:
    model = network().eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = data()
    with watch(model, optimizer, every=1, quantities="cheap") as watcher:
        for _ in range(3):
            for rows in (slice(0, 8), slice(8, 16)):  # accumulated
                (nn.functional.cross_entropy(model(x[rows]), y[rows]) / 2).backward()
            gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
            optimizer.step()
            optimizer.zero_grad()  # before step() is called: nothing is lost
            watcher.step(0.5)
            after = torch.cat([p.detach().flatten() for p in model.parameters()])
            values = watcher.records[-1].values
            assert values["gradient_norm"] == pytest.approx(float(gradient.norm()), rel=1e-5)
            assert values["update_ratio"] == pytest.approx(
                float(0.1 * gradient.norm() / after.norm()), rel=1e-4
            )
            assert values["loss"] == 0.5


def test_scaled_gradients_are_seen_unscaled() -> None:
    """A GradScaler multiplies gradients by 65,536; the optimiser, and the watcher, see them divided again."""
    model = network().eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", enabled=True)
    x, y = data()
    loss = nn.functional.cross_entropy(model(x), y)
    expected = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
    with watch(model, optimizer, every=1, quantities="cheap") as watcher:
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        watcher.step(loss)
    norm = float(torch.cat([part.flatten() for part in expected]).norm())
    assert watcher.records[0].values["gradient_norm"] == pytest.approx(norm, rel=1e-4)


def test_compiled_and_wrapped_models_are_watched_as_their_own_module() -> None:
    model = network()

    class Wrapped(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self._orig_mod = inner

        def forward(self, x: Tensor) -> Tensor:
            return self._orig_mod(x)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(
        Wrapped(model), optimizer, data(), every=1, quantities=("gradient", "stopping"), show=False
    ) as watcher:
        train(model, watcher, optimizer, 2)
    assert watcher.model is model
    assert "0.weight" in watcher.records[0].layers["gradient_norm"]


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_compiled_model_and_a_compiled_step_are_watched_without_a_word() -> None:
    model = network().eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    compiled = cast(nn.Module, torch.compile(model, backend="eager"))
    expected: list[float] = []
    step = torch.compile(optimizer.step, backend="eager")
    x, y = data()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Dynamo")
        with watch(compiled, optimizer, data(), every=1, quantities=("gradient", "noise")) as watcher:
            for _ in range(2):
                loss = nn.functional.cross_entropy(compiled(x), y)
                optimizer.zero_grad()
                loss.backward()
                gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
                expected.append(float(torch.cat(gradients).norm()))
                step()
                watcher.step(loss)
    assert [sorted(record.layers["gradient_norm"])[0] for record in watcher.records] == ["0.bias"] * 2
    assert [record.values["gradient_norm"] for record in watcher.records] == pytest.approx(expected, rel=1e-5)
    assert "noise_scale" in watcher.records[-1].values


def test_a_diverging_run_is_said_and_logged(tmp_path: Path) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e6)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with watch(model, optimizer, data(), every=1, folder=tmp_path) as watcher:
            train(model, watcher, optimizer, 8)
            watcher.step(math.nan)
    assert "diverging" in {alert.kind for alert in watcher.alerts}
    assert any("divide the learning rate" in str(one.message) for one in said)
    lines = [json.loads(line) for line in (tmp_path / "watch.jsonl").read_text().splitlines()]
    assert [alert_of(line["alert"]) for line in lines if "alert" in line] == watcher.alerts


def test_vanishing_gradients_name_the_layer() -> None:
    model = nn.Sequential(
        *(part for _ in range(30) for part in (nn.Linear(12, 12), nn.Sigmoid())), nn.Linear(12, 3)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.randn(32, 12, generator=torch.Generator().manual_seed(0))
    y = torch.arange(32) % 3
    with watch(model, optimizer, (x, y), every=1, quantities="cheap", show=False) as watcher:
        for _ in range(3):
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            watcher.step(loss)
    vanished = [alert.layer for alert in watcher.alerts if alert.kind == "vanishing"]
    assert "0.weight" in vanished
    assert "60.weight" not in vanished


def test_a_step_without_an_optimizer_step_keeps_the_loss() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watcher = watch(model, optimizer, every=1, quantities="cheap")
    with watcher:
        watcher.step(torch.tensor(2.0))
        watcher.step(3.0)
        watcher.step()
        for _ in range(6):
            watcher.step(4.0)
        with pytest.warns(TrainingWarning, match="took no step in the last 10 calls"):
            watcher.step(4.0)
    assert [record.values.get("loss") for record in watcher.records][:4] == [2.0, 3.0, None, 4.0]


def test_losses_between_records_are_averaged() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with (
        watch(model, optimizer, every=4, quantities="loss", show=False) as watcher,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        for step in range(1, 9):
            watcher.step(float(step))
    assert [(record.step, record.values["loss"]) for record in watcher.records] == [
        (1, 1.0),
        (4, 3.0),
        (8, 6.5),
    ]


def test_an_error_in_training_passes_through_and_is_logged(tmp_path: Path) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(KeyError), watch(model, optimizer, every=1, quantities="cheap", folder=tmp_path):
        raise KeyError("theirs")
    last = json.loads((tmp_path / "watch.jsonl").read_text().splitlines()[-1])
    assert last["summary"]["ended"] == "KeyError"
    assert not optimizer._optimizer_step_pre_hooks


def test_instruments_on_the_live_optimizer() -> None:
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    specimen = Specimen(network(1), Classification(), data(), data(40))
    with watch(
        model, optimizer, specimen, every=2, quantities=("stability_edge", "margins"), show=False
    ) as watcher:
        train(model, watcher, optimizer, 4)
    values = watcher.records[-1].values
    assert set(values) == {"stability_edge", "sharpness", "stability_limit", "margins"}
    assert len({record.values["stability_edge"] for record in watcher.records}) == 3


def test_wrong_uses_are_refused_in_words() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(SettingError, match=r"watch\(\) needs a torch.nn.Module"):
        watch(model, "adam")  # pyright: ignore[reportArgumentType]
    for every in (0, -1, True, "often", 1.5):
        with pytest.raises(SettingError, match='every must be "auto"'):
            watch(model, optimizer, every=every)
    for budget in (0.0, -1.0, math.nan, True):
        with pytest.raises(SettingError, match="budget must lie in"):
            watch(model, optimizer, budget=budget)
    with pytest.raises(SettingError, match="noise needs data to measure on"):
        watch(model, optimizer, quantities=("noise",))
    with pytest.raises(SettingError, match="A probe is a Specimen or a batch"):
        watch(model, optimizer, {"x": torch.ones(3)})


def test_records_survive_json_with_numbers_that_are_not_finite() -> None:
    record = Record(3, 1.5, {"a": math.nan, "b": math.inf, "c": 1.0}, {"a": {"x": math.nan, "y": 2.0}})
    text = json.dumps(plain(record), allow_nan=False)
    found = record_of(json.loads(text))
    assert math.isnan(found.values["a"])
    assert (found.values["b"], found.values["c"]) == (math.inf, 1.0)
    assert math.isnan(found.layers["a"]["x"])
    assert Series("t").log is False


def test_it_is_exported() -> None:
    assert torchstone.watch is watch
