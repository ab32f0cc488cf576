"""Whatever is wrong with a run, its watcher says so once, in words, and the run goes on."""

from __future__ import annotations

import contextlib
import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone.watching import TrainingWarning, Watch, watch
from torchstone.watching.log import WatchLog
from torchstone.watching.quantities import Quantity
from torchstone.watching.record import header_of, record_of
from torchstone.watching.state import Measured, State


def network() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=g) / 3)
    return model


def data() -> tuple[Tensor, Tensor]:
    x = torch.randn(24, 6, generator=torch.Generator().manual_seed(3))
    return x, torch.arange(24) % 3


def sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.1)


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    watcher: Watch,
    steps: int = 3,
    told: Callable[[Tensor], Any] = lambda loss: loss,
) -> None:
    x, y = data()
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        watcher.step(told(loss))


def run(
    quantities: str | Sequence[str | Quantity] = "cheap",
    told: Callable[[Tensor], Any] = lambda loss: loss,
    **options: Any,
) -> tuple[Watch, list[str]]:
    """A short run and what was said."""
    model = network()
    optimizer = sgd(model)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with watch(model, optimizer, data(), every=1, quantities=quantities, **options) as watcher:
            train(model, optimizer, watcher, told=told)
    assert {one.category for one in said} <= {TrainingWarning}
    assert {one.filename for one in said} <= {__file__}  # the training loop, not the watcher
    return watcher, [str(one.message) for one in said]


def copies(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


class Failing(Quantity):
    """Raises."""

    name = "failing"

    def measure(self, state: State) -> Measured:
        raise ZeroDivisionError("by design")


class Odd(Quantity):
    """Gives something for a number, under a name that JSON cannot hold."""

    name = "odd"

    def __init__(self, given: object) -> None:
        self.given = given

    def measure(self, state: State) -> Measured:
        return Measured({("a", 1): self.given}, {"odd": {object: self.given}})  # pyright: ignore[reportArgumentType]


class Broken:
    """A logger whose disk is full."""

    def start(self, header: Any) -> None:
        self.header = header

    def record(self, record: Any) -> None:
        raise OSError(28, "No space left on device")

    def alert(self, alert: Any) -> None:
        raise OSError(28, "No space left on device")

    def finish(self, summary: Mapping[str, Any]) -> None:
        raise AssertionError("dropped before")


def test_whatever_fails_is_said_once_and_the_run_goes_on() -> None:
    watcher, said = run([Failing(), "loss"])
    assert said == ["failing is no longer watched: by design"]
    assert len(watcher.records) == 3


def test_warnings_as_errors_do_not_kill_it_either() -> None:
    model = network()
    optimizer = sgd(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with watch(model, optimizer, every=1, quantities=[Failing(), "loss"]) as watcher:
            train(model, optimizer, watcher)
            watcher.step(math.nan)
    assert len(watcher.records) == 4


def test_a_logger_that_fails_is_dropped(tmp_path: Path) -> None:
    watcher, said = run(loggers=[Broken()], folder=tmp_path, show=False)
    assert said == ["Broken takes no more records: [Errno 28] No space left on device"]
    lines = [json.loads(line) for line in (tmp_path / "watch.jsonl").read_text().splitlines()]
    kinds = [next(iter(line)) for line in lines]
    assert (kinds[0], kinds.count("record"), kinds[-1]) == ("header", 3, "summary")
    assert lines[-1]["summary"]["steps"] == 3
    assert lines[-1]["summary"]["ended"] == "finished"
    header = header_of(lines[0]["header"])
    assert header.series["update_ratio"].log
    assert record_of(lines[1]["record"]) == watcher.records[0]


def test_a_log_on_a_full_disk_is_given_up_in_words(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    (tmp_path / "watch.jsonl").symlink_to(full)
    watcher, (said,) = run(folder=tmp_path)
    assert "JsonLines takes no more records: " in said
    assert "No space left on device. Free space or pass another folder" in said
    assert len(watcher.records) == 3


def test_what_is_no_number_is_left_out_and_the_log_goes_on(tmp_path: Path) -> None:
    """Names are written as texts; a value that is no number costs its own quantity, not the log."""
    watcher, said = run(["loss", Odd("high")], folder=tmp_path)
    assert said == ["odd is no longer watched: ('a', 1) must be a number; got str 'high'"]
    assert len(WatchLog.load(tmp_path).records) == len(watcher.records) == 3
    watcher, said = run(["loss", Odd(torch.tensor(2.0))], folder=tmp_path)
    assert not said
    last = WatchLog.load(tmp_path).records[-1]
    assert last.values["('a', 1)"] == last.layers["odd"][str(object)] == 2.0


@pytest.mark.parametrize("loss", [{"loss": 1.0}, [1.0], torch.tensor(1 + 1j), 10**400, object()])
def test_a_loss_that_is_no_number_is_left_out(loss: object) -> None:
    watcher, (said,) = run(told=lambda _: loss)
    assert said.startswith("step() takes the loss as a number or a tensor and leaves this one out: ")
    assert ["loss" in record.values for record in watcher.records] == [False] * 3
    assert all("gradient_norm" in record.values for record in watcher.records)


def test_a_loss_that_is_not_finite_is_said_once_for_all_layers() -> None:
    """And what is measured on the probe waits for finite numbers, rather than being given up for good."""
    watcher, said = run(
        ("loss", "gradient", "noise", "forgetting", "stability_edge"), told=lambda loss: loss * math.nan
    )
    assert said == [
        "step 1: The loss is nan. Go back to the last good weights and divide the learning rate by 3; clip the gradient's norm."
    ]
    assert "probe_accuracy" not in watcher.records[-1].values
    model = network()
    optimizer = sgd(model)
    good = {name: value.clone() for name, value in model.state_dict().items()}
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with watch(model, optimizer, data(), every=1, quantities=("gradient", "noise")) as watcher:
            model.get_parameter("0.weight").data.fill_(math.nan)
            train(model, optimizer, watcher)
            model.load_state_dict(good)
            train(model, optimizer, watcher)
    (message,) = [str(one.message) for one in warned]
    assert message.startswith("step 1: The gradient of 0.weight is nan. The same in 3 more layers. Clip")
    assert len(watcher.alerts) == 4
    assert ["noise_scale" in record.values for record in watcher.records] == [False] * 3 + [True] * 3


def test_steps_without_backward_are_said_once() -> None:
    model = network()
    optimizer = sgd(model)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with watch(model, optimizer, every=1, quantities="cheap") as watcher:
            for _ in range(3):
                optimizer.step()
                watcher.step(1.0)
            train(model, optimizer, watcher, 1)
    (message,) = [str(one.message) for one in said]
    assert message == "the optimiser takes a step without any gradient: was backward() called before it?"
    assert [record.values["gradient_norm"] > 0 for record in watcher.records] == [False] * 3 + [True]


def test_parameters_that_come_and_go() -> None:
    model = network()
    optimizer = sgd(model)
    quantities = ("gradient", "step", "stopping", "forgetting")
    with watch(model, optimizer, data(), every=1, quantities=quantities, show=False) as watcher:
        train(model, optimizer, watcher, 2)
        model.append(nn.Linear(3, 3))
        optimizer.add_param_group({"params": list(model[-1].parameters())})
        train(model, optimizer, watcher, 2)
        model[0].weight.requires_grad_(False)
        train(model, optimizer, watcher, 2)
    assert "3.weight" in watcher.records[3].layers["gradient_norm"]
    assert "0.weight" not in watcher.records[-1].layers["gradient_norm"]
    assert ["step_decrease" in record.values for record in watcher.records] == [True] * 6


def test_a_layer_of_another_shape_in_place_of_one() -> None:
    """Between two steps, and between a step and the call that says it is over: then nothing is known of that step."""
    model = network()
    optimizer = sgd(model)
    widths = iter((4, 5))

    def replace(_: Tensor | None = None) -> None:
        model[2] = nn.Linear(8, next(widths))
        optimizer.add_param_group({"params": list(model[2].parameters())})

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with watch(model, optimizer, data(), every=1, quantities=("gradient", "step", "noise")) as watcher:
            train(model, optimizer, watcher, 1)
            replace()
            train(model, optimizer, watcher, 1)
            train(model, optimizer, watcher, 1, told=replace)
            train(model, optimizer, watcher, 1)
    assert watcher._left_out == {}
    assert ["step_decrease" in record.values for record in watcher.records] == [True, True, False, True]
    assert ["noise_scale" in record.values for record in watcher.records] == [True] * 4


def test_a_probe_that_no_longer_fits_is_said_once() -> None:
    model = network()
    optimizer = sgd(model)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with watch(model, optimizer, data(), every=1, quantities=("loss", "noise", "forgetting")) as watcher:
            train(model, optimizer, watcher, 1)
            for width in (5, 6):
                model[0] = nn.Linear(width, 8)
                optimizer.add_param_group({"params": list(model[0].parameters())})
                if width == 5:
                    watcher.step(1.0)
                    watcher.step(1.0)
            train(model, optimizer, watcher, 1)
    (message,) = [str(one.message) for one in said]
    assert message.startswith(
        "nothing is measured on the probe until the parameters change again: The model must"
    )
    assert ["noise_scale" in record.values for record in watcher.records] == [True, False, False, True]


def test_an_interrupt_while_measuring_leaves_the_weights_as_they_are() -> None:
    """Ctrl-C may come anywhere, also while the weights before the step are put back for a moment."""
    model = network()
    optimizer = sgd(model)
    armed = False
    expected: list[Tensor] = []

    def interrupt(*_: object) -> None:
        if armed and not model.training:
            raise KeyboardInterrupt

    model[2].register_forward_hook(interrupt)
    watcher = watch(model, optimizer, data(), every=1, quantities=("gradient", "step"))
    with contextlib.suppress(KeyboardInterrupt), watcher:
        train(model, optimizer, watcher, 1)
        armed = True
        train(model, optimizer, watcher, 1, told=lambda loss: expected.extend(copies(model)) or loss)
    assert len(watcher.records) == 1
    assert all(torch.equal(a, b) for a, b in zip(expected, model.parameters(), strict=True))
    assert model.training
    assert not optimizer._optimizer_step_pre_hooks


def test_an_optimizer_of_no_parameter_of_the_model_is_said_once() -> None:
    other = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([other], lr=0.1)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with watch(nn.ReLU(), optimizer, every=1) as watcher:
            for _ in range(4):
                optimizer.zero_grad()
                loss = other.square().sum()
                loss.backward()
                optimizer.step()
                watcher.step(loss)
    (message,) = [str(one.message) for one in said]
    assert message == "the optimiser holds none of the model's trainable parameters: no gradient is seen"
    assert [record.values["loss"] for record in watcher.records] == sorted(
        (record.values["loss"] for record in watcher.records), reverse=True
    )


def test_a_watcher_entered_anew_goes_on_where_it_was_left(tmp_path: Path) -> None:
    model = network()
    optimizer = sgd(model)
    watcher = watch(model, optimizer, every=1, quantities="cheap", folder=tmp_path, show=False)
    for _ in range(2):
        with watcher:
            train(model, optimizer, watcher)
        assert 0 <= watcher.overhead < 100
    log = WatchLog.load(tmp_path)
    assert log.series("loss")[0] == [1, 2, 3, 4, 5, 6]
    assert [record.seconds for record in log.records] == sorted(record.seconds for record in log.records)
