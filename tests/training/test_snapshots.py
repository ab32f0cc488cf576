"""States kept along a training run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from torchstone.errors import SettingError
from torchstone.specimens.networks import mlp
from torchstone.training.evaluation import cross_entropy
from torchstone.training.fit import History, fit


def train(model: nn.Module, **settings: Any) -> History:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 4, generator=generator)
    sgd = lambda parameters: torch.optim.SGD(parameters, lr=0.1)
    options = {"optimizer": sgd, "batch_size": 10, "epochs": 5, "generator": generator, **settings}
    return fit(model, cross_entropy, x, x[:, :3].argmax(1), **options)


def network() -> nn.Module:
    return nn.Sequential(
        mlp([4, 6], generator=torch.Generator().manual_seed(1)), nn.BatchNorm1d(6), nn.Linear(6, 3)
    )


def test_states_are_evenly_spaced_from_start_to_end() -> None:
    model = network()
    nn.init.constant_(model[2].weight, 0.1)  # pyright: ignore[reportIndexIssue, reportArgumentType]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    history = train(model, keep_trajectory=5)
    assert history.trajectory_steps == (0, 5, 10, 15, 20)
    first, *_, last = history.trajectory
    assert first.keys() == before.keys()
    assert all(torch.equal(first[name], value) for name, value in before.items())
    assert all(torch.equal(last[name], value) for name, value in model.state_dict().items())
    assert all(last[name].data_ptr() != value.data_ptr() for name, value in model.state_dict().items())
    assert not torch.equal(history.trajectory[1]["1.running_mean"], history.trajectory[2]["1.running_mean"])


def test_keeping_states_changes_nothing_and_is_off_by_default() -> None:
    one, other = network(), network()
    other.load_state_dict(one.state_dict())
    assert train(one).trajectory == ()
    train(other, keep_trajectory=7)
    assert all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))


def test_more_states_than_steps_and_runs_that_stop() -> None:
    assert train(network(), epochs=None, steps=3, keep_trajectory=30).trajectory_steps == (0, 1, 2, 3)
    stopped = train(network(), keep_trajectory=3, stop=lambda series: len(series["train_loss"]) == 3)
    assert stopped.trajectory_steps == (0, 10, 12)


@pytest.mark.parametrize("count", [1, -2])
def test_a_single_state_is_no_trajectory(count: int) -> None:
    with pytest.raises(SettingError, match="keep_trajectory must be 0, or at least 2"):
        train(network(), keep_trajectory=count)
