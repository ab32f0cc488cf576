"""Resuming, early stopping, precision and processes of `fit`."""

from __future__ import annotations

import contextlib
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from torchstone.errors import (
    FormatError,
    NumericalError,
    ObjectiveError,
    OutputError,
    ProcessError,
    SettingError,
)
from torchstone.specimens.networks import mlp
from torchstone.training.evaluation import cross_entropy, misclassified
from torchstone.training.fit import Epoch, History, fit
from torchstone.training.patience import Patience


class Killed(BaseException):
    """As a signal would."""


def data(dtype: torch.dtype = torch.float32, count: int = 83) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 6, generator=generator).to(dtype), torch.randint(
        3, (count,), generator=generator
    )


def network(norm: bool = True, dropout: float = 0.2) -> nn.Module:
    generator = torch.Generator().manual_seed(3)
    middle = [nn.BatchNorm1d(16)] if norm else []
    return nn.Sequential(
        mlp([6, 16], generator=generator),
        *middle,
        nn.ReLU(),
        nn.Dropout(dropout),
        mlp([16, 3], generator=generator),
    )


def train(model: nn.Module, killed_after: int | None = None, **settings: Any) -> History:
    x, y = data()

    def on_epoch(epoch: Epoch) -> dict[str, float]:
        if epoch.index == killed_after:
            raise Killed
        return {"index": float(epoch.index)}

    settings = {
        "optimizer": lambda p: torch.optim.Adam(p, lr=0.01),
        "scheduler": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.02, total_steps=60),
        "batch_size": 16,
        "epochs": 9,
        "keep_trajectory": 5,
        "ledger": misclassified,
        "generator": torch.Generator().manual_seed(5),
        "on_epoch": on_epoch,
        **settings,
    }
    return fit(model, cross_entropy, x, y, **settings)


def bits(model: nn.Module) -> list[bytes]:
    return [value.numpy().tobytes() for value in model.state_dict().values()]


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_a_killed_run_goes_on_and_ends_at_the_same_bits(tmp_path: Path, autocast: Any) -> None:
    whole, cut, file = network(), network(), tmp_path / "run.safetensors"
    expected = train(whole, autocast=autocast)
    with pytest.raises(Killed):
        train(cut, 4, checkpoint=file, autocast=autocast)
    assert file.exists()
    again = network()
    found = train(again, checkpoint=file, autocast=autocast)
    assert bits(again) == bits(whole)
    assert found.series == expected.series
    assert found.steps == expected.steps
    assert found.trajectory_steps == expected.trajectory_steps
    for mine, its in zip(found.trajectory, expected.trajectory, strict=True):
        assert all(torch.equal(mine[name], its[name]) for name in its)
    assert torch.equal(found.ledger, expected.ledger)  # pyright: ignore[reportArgumentType]
    assert not file.exists()  # finished


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "run.safetensors"
    with pytest.raises(Killed):
        train(network(), 3, checkpoint=file)
    with pytest.raises(SettingError, match="must be of this run"):
        train(network(), checkpoint=file, batch_size=17)
    with pytest.raises(SettingError, match="generator"):
        train(network(), checkpoint=file, generator=torch.Generator().manual_seed(6))
    with pytest.raises(SettingError, match="weights"):
        train(network(norm=False), checkpoint=file)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(FormatError, match="whole checkpoint"):
        train(network(), checkpoint=file)
    with pytest.raises(OutputError, match="writable"):
        train(network(), checkpoint=tmp_path / "missing" / "run.safetensors")


def test_patience_ends_the_run() -> None:
    values = [3.0, 2.0, 1.0, 1.05, 0.99, 1.2, 1.1, 1.3, 0.5]

    def on_epoch(epoch: Epoch) -> dict[str, float]:
        return {"test_loss": values[epoch.index - 1]}

    history = train(network(), on_epoch=on_epoch, stop=Patience(3, "test_loss"))
    assert (history.stopped, history.epochs) == (True, 8)
    history = train(network(), on_epoch=on_epoch, stop=Patience(3, "test_loss", least=0.1))
    assert (history.stopped, history.epochs) == (True, 6)
    with pytest.raises(SettingError, match="Return it from on_epoch"):
        train(network(), stop=Patience(3, "test_error"))
    with pytest.raises(SettingError, match="at least one epoch"):
        Patience(0)
    with pytest.raises(SettingError, match="at least 0"):
        Patience(1, least=float("nan"))
    assert not Patience(1)({"train_loss": ()})


def test_half_precision_trains_close_to_single() -> None:
    single, half = network(dropout=0.0), network(dropout=0.0)
    a, b = train(single), train(half, autocast=torch.bfloat16)
    assert all(p.dtype == torch.float32 for p in half.parameters())
    assert a["train_loss"][-1] == pytest.approx(b["train_loss"][-1], rel=0.05)
    assert bits(single) != bits(half)
    with pytest.raises(SettingError, match=r"torch\.bfloat16"):
        train(network(), autocast=torch.float64)


def test_float16_scales_the_loss() -> None:
    model, x = nn.Linear(4, 1, bias=False), torch.full((8, 4), 1e-4)
    nn.init.ones_(model.weight)

    def tiny(network: nn.Module, some: Tensor, _: Tensor) -> Tensor:
        # Its gradient in the weights, 1e-8, is below float16's smallest number.
        return network(some)[:, 0].float() * 1e-4

    fit(
        model,
        tiny,
        x,
        torch.zeros(8),
        optimizer=lambda p: torch.optim.SGD(p, lr=1e6),
        batch_size=8,
        generator=torch.Generator(),
        steps=1,
        autocast=torch.float16,
    )
    assert torch.allclose(model.weight, torch.full((1, 4), 1 - 1e-2), rtol=1e-3)


def test_all_processes_needs_a_group() -> None:
    with pytest.raises(SettingError, match="torchrun"):
        train(network(), processes="all")


def penalty(model: nn.Module) -> Tensor:
    return 1e-2 * torch.stack([p.square().sum() for p in model.parameters()]).sum()


def together(processes: Any, norm: bool = False, count: int = 83) -> tuple[nn.Module, History]:
    model, (x, y) = network(norm, dropout=0.0).double(), data(torch.float64, count)
    history = fit(
        model,
        cross_entropy,
        x,
        y,
        optimizer=lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        batch_size=16,
        epochs=3,
        generator=torch.Generator().manual_seed(5),
        penalty=penalty,
        ledger=misclassified,
        processes=processes,
    )
    return model, history


def refused(call: Any) -> str:
    try:
        call()
    except (ProcessError, NumericalError, ObjectiveError) as error:
        return str(error)
    return "nothing"


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    found: dict[str, Any] = {}
    for name, count in (("ragged", 83), ("single left over", 81)):  # 81 = 5 * 16 + 1: one process has nothing
        model, history = together("all", count=count)
        found[name] = {"state": model.state_dict(), "loss": history["train_loss"], "ledger": history.ledger}
    model, _ = together("all", norm=True, count=84)
    found["norm"] = model.state_dict()
    file = Path(folder) / "run.safetensors"
    settings: dict[str, Any] = {"processes": "all", "checkpoint": file, "ledger": None}
    with contextlib.suppress(Killed):
        train(network(norm=False), 4, **settings)
    dist.barrier()
    resumed = network(norm=False)
    train(resumed, **settings)
    straight = network(norm=False)
    train(straight, processes="all", ledger=None)
    found["resumed"] = bits(resumed) == bits(straight)
    found["other seeds"] = refused(
        lambda: train(network(), processes="all", generator=torch.Generator().manual_seed(rank))
    )
    found["lone example"] = refused(
        lambda: together("all", norm=True, count=83)
    )  # no batch norm of one example
    dist.barrier()
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def test_two_processes_train_what_one_trains(tmp_path: Path) -> None:
    # This process is the first of the two: a third would cost another start of everything.
    threads, other = (
        torch.get_num_threads(),
        get_context("spawn").Process(target=work, args=(1, str(tmp_path))),
    )
    other.start()
    try:
        work(0, str(tmp_path))
    finally:
        torch.set_num_threads(threads)
        other.join(60)
    assert other.exitcode == 0
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for name, count in (("ragged", 83), ("single left over", 81)):
        model, history = together(None, count=count)
        for result in (first[name], second[name]):
            assert result["loss"] == pytest.approx(history["train_loss"], rel=1e-12)
            assert torch.equal(result["ledger"], history.ledger)  # pyright: ignore[reportArgumentType]
            for key, value in model.state_dict().items():
                torch.testing.assert_close(result["state"][key], value, rtol=1e-10, atol=1e-12)
    for key, value in first["norm"].items():
        assert torch.equal(value, second["norm"][key]), key
    assert first["resumed"]
    assert second["resumed"]
    for result in (first, second):
        assert "2 different ones" in result["other seeds"]
    assert "another process failed" in first["lone example"]
    assert "Expected more than 1 value" in second["lone example"]
