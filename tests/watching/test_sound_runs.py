"""Real runs: sound ones raise no alert, and ones that are made to fail raise theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from torchstone.watching import TrainingWarning, Watch, watch
from torchstone.watching.alerts import NOISY
from torchstone.watching.probe import probe
from torchstone.watching.quantities.noise import Noise
from torchstone.watching.rest import at_rest
from torchstone.watching.state import Measured, State


def data(count: int = 256) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(3)
    x = torch.randn(count, 6, generator=g)
    return x, (x @ torch.randn(6, 3, generator=g)).argmax(1)


def network(
    activation: Callable[[], nn.Module] = nn.ReLU, scale: float = 0.4, depth: int = 2
) -> nn.Sequential:
    parts = [nn.Linear(6, 16), activation()]
    for _ in range(depth - 2):
        parts += [nn.Linear(16, 16), activation()]
    model = nn.Sequential(*parts, nn.Linear(16, 3))
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=g) * scale)
    return model


def batches(steps: int, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    x, y = data()
    g = torch.Generator().manual_seed(5)
    for _ in range(steps):
        rows = torch.randint(len(x), (size,), generator=g) if size < len(x) else slice(None)
        yield x[rows], y[rows]


def trained(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    rate: Callable[[int], float] = lambda _: 1.0,
    *,
    steps: int = 150,
    size: int = 32,
    quantities: str | tuple[str, ...] = "cheap",
    examples: int = 128,
) -> Watch:
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    with watch(
        model, optimizer, data(), every=2, quantities=quantities, examples=examples, show=False
    ) as watcher:
        for x, y in batches(steps, size):
            loss = nn.functional.cross_entropy(model(x).float(), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            watcher.step(loss)
            schedule.step()
    return watcher


def kinds(watcher: Watch) -> set[str]:
    return {alert.kind for alert in watcher.alerts}


@pytest.mark.parametrize("name", ["sgd", "adam", "warm-up and decay", "full batch"])
def test_sound_runs_raise_nothing(name: str) -> None:
    model = network()
    rate: Callable[[int], float] = lambda _: 1.0
    if name == "sgd":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    elif name == "full batch":
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    if name == "warm-up and decay":  # the first step and the last ones move nothing
        rate = lambda step: min(step / 20, 1.0) * max(0.0, 1 - step / 140)
    watcher = trained(model, optimizer, rate, size=256 if name == "full batch" else 32)
    assert watcher.alerts == []
    assert watcher.records[-1].values["loss"] < 0.5


def test_steps_past_the_edge_are_said_before_the_loss_is_lost() -> None:
    """Least squares, whose Hessian is known: the loss is that of the probe, which is all of the data."""
    model = nn.Linear(6, 3)
    with torch.no_grad():
        model.weight.fill_(0.1)
    x, _ = data()
    inputs = torch.cat([x, torch.ones(len(x), 1)], 1).double()
    exact = 2 / 3 * float(torch.linalg.eigvalsh(inputs.T @ inputs / len(x))[-1])
    lr = 1.5 * 2 / exact
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    with watch(
        model,
        optimizer,
        (x, x[:, :3]),
        every=1,
        quantities=("loss", "stability_edge"),
        examples=len(x),
        show=False,
    ) as watcher:
        for _ in range(15):
            loss = nn.functional.mse_loss(model(x), x[:, :3])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            watcher.step(loss)
    values = watcher.records[0].values
    assert values["stability_limit"] == pytest.approx(2 / lr)
    assert values["sharpness"] == pytest.approx(exact, rel=1e-2)
    assert values["stability_edge"] == pytest.approx(1.5, rel=1e-2)
    (alert,) = [alert for alert in watcher.alerts if alert.kind == "past the stability edge"]
    assert alert.step < 15
    assert "Lower the learning rate" in alert.remedy


def test_a_saddle_is_told_from_a_minimum() -> None:
    """With all weights zero only the output's bias learns, and the rest stays at a saddle."""
    model = network(nn.Tanh, scale=0.0)
    watcher = trained(
        model,
        torch.optim.SGD(model.parameters(), lr=0.5),
        size=256,
        steps=130,
        quantities=("loss", "gradient"),
        examples=256,
    )
    (alert,) = [alert for alert in watcher.alerts if alert.kind == "stuck"]
    assert "rests at a saddle" in alert.message
    assert "Initialise anew" in alert.remedy
    convex = nn.Linear(6, 3)  # has no saddle anywhere
    bench = probe(data(), convex, torch.optim.SGD(convex.parameters(), lr=0.1), None, None)
    assert bench is not None
    assert at_rest(alert, bench) is None


def test_weights_of_another_optimizer_do_not_look_stuck() -> None:
    model = network(depth=3)
    first, second = (torch.optim.SGD(model[i].parameters(), lr=0.1) for i in (0, 2))
    x, y = data(64)
    with watch(model, first, every=1, quantities="cheap", show=False) as watcher:
        for _ in range(5):
            loss = nn.functional.cross_entropy(model(x), y)
            model.zero_grad()
            loss.backward()
            first.step()
            second.step()
            watcher.step(loss)
    assert watcher.alerts == []
    assert set(watcher.records[-1].layers["update_norm"]) == {"0.weight", "0.bias"}


def test_tables_with_sparse_gradients_lose_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randint(20, (32, 5), generator=generator), torch.randint(3, (32,), generator=generator)
    model = nn.Sequential(nn.EmbeddingBag(20, 4, sparse=True), nn.Linear(4, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    names = ("gradient", "noise", "step")
    with watch(model, optimizer, (x, y), every=1, quantities=names, show=False) as watcher:
        for _ in range(2):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            watcher.step(loss)
    assert {"gradient_norm", "noise_scale", "alpha"} <= set(watcher.records[-1].values)


def test_an_optimizer_of_another_model_is_told() -> None:
    optimizer = torch.optim.SGD(network().parameters(), lr=0.1)
    with (
        pytest.warns(TrainingWarning, match="holds none of the model's trainable parameters"),
        watch(network(), optimizer, quantities="cheap"),
    ):
        pass


def test_updates_lost_to_half_precision_are_said() -> None:
    model = network().bfloat16()
    x, y = data(64)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    with watch(model, optimizer, every=1, quantities="cheap", show=False) as watcher:
        for _ in range(4):
            before = model.get_parameter("0.weight").detach().clone()
            loss = nn.functional.cross_entropy(model(x.bfloat16()).float(), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            watcher.step(loss)
            share = float((model.get_parameter("0.weight").detach() != before).double().mean())
            assert watcher.records[-1].layers["moved"]["0.weight"] == pytest.approx(share)
    assert kinds(watcher) == {"lost in rounding"}


def test_what_does_not_apply_yet_is_asked_again() -> None:
    """A learning rate that is warmed up begins at 0, where no stability limit exists."""
    model = network()
    watcher = trained(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        lambda step: min(1.0, step / 4),
        steps=8,
        quantities=("loss", "stability_edge", "noise"),
    )
    assert "stability_edge" in watcher.records[-1].values
    assert watcher._left_out == {}


class Seldom(Noise):
    """Noise at every tenth step only, as with every="auto"."""

    def measure(self, state: State) -> Measured:
        due = state.step % 10 == 0
        self.kinds = (NOISY,) if due else ()
        return super().measure(state) if due else Measured()


@pytest.mark.parametrize(("size", "expected"), [(1, {NOISY}), (256, set())])
def test_steps_that_noise_keeps_from_progress_are_said(size: int, expected: set[str]) -> None:
    """Noisy labels, near the optimum: single examples keep it from there at a rate that all of them bear."""
    x, labels = data()
    g = torch.Generator().manual_seed(3)
    y = torch.where(torch.rand(256, generator=g) < 0.4, torch.randint(3, (256,), generator=g), labels)
    model = network(nn.Tanh)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step(rows: Tensor | slice) -> Tensor:
        loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    for _ in range(300):
        step(slice(None))
    quantities = ("loss", Seldom())
    with watch(
        model, optimizer, (x, y), every=1, quantities=quantities, batch_size=size, examples=64, show=False
    ) as watcher:
        for _ in range(125):
            watcher.step(step(torch.randint(256, (1,), generator=g) if size == 1 else slice(None)))
    assert kinds(watcher) == expected
    for alert in watcher.alerts:
        assert 80 < alert.step <= 125
        assert "a batch has 1." in alert.message
        assert "Lower the learning rate, average the weights, or take larger batches." in alert.remedy
