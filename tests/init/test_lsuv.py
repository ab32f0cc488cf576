"""Layer-sequential unit variance: reached on every layer, or refused with the model as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from torchstone.errors import NumericalError, SettingError
from torchstone.init import lsuv


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def variances(model: nn.Module, batch: Any) -> list[float]:
    found: list[float] = []
    handles = [
        module.register_forward_hook(lambda _m, _i, output: found.append(float(output.var())))
        for module in model.modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    ]
    with torch.no_grad():
        model(batch)
    for handle in handles:
        handle.remove()
    return found


def test_lsuv_gives_every_layer_variance_one() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3),
        nn.BatchNorm2d(6),
        nn.GELU(),
        nn.Conv2d(6, 4, 3),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(64, 20),
        nn.ReLU(),
        nn.Linear(20, 3),
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.1, generator=generator(2))
    batch = 5 + 3 * torch.randn(64, 1, 8, 8, generator=generator())
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    state = torch.get_rng_state()
    report = lsuv(model, batch, generator=generator())
    assert torch.equal(torch.get_rng_state(), state)
    assert [row.name for row in report] == ["0", "3", "6", "8"]
    assert all(abs(row.after - 1) <= 0.02 for row in report)
    assert all(torch.equal(value, buffers[name]) for name, value in model.named_buffers())
    assert max(abs(variance - 1) for variance in variances(model, batch)) <= 0.021
    assert max(row.passes for row in report) <= 3


def test_lsuv_names_a_layer_whose_outputs_do_not_vary() -> None:
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 2))
    with pytest.raises(NumericalError, match="outputs of 0 must vary"):
        lsuv(model, torch.zeros(5, 3), generator=generator())
    with pytest.raises(SettingError, match="layers that run"):
        lsuv(nn.Sequential(nn.ReLU()), torch.zeros(5, 3), generator=generator())


def network(bias: float = 0.0) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(5, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 3))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0, bias if name.endswith("bias") else 1, generator=generator(len(name)))
    return model


def dead() -> nn.Sequential:
    model = network()
    with torch.no_grad():
        model.get_parameter("0.bias").fill_(-100.0)
    return model


DATA = torch.randn(32, 5, generator=generator(1))


@pytest.mark.parametrize(
    ("model", "batch", "message"),
    [
        (network(), torch.zeros(8, 5), "outputs of 0 must vary; got variance 0.0"),
        (network(), DATA[:0], "outputs of 0 must vary"),
        (network(), torch.full((8, 5), float("nan")), "outputs of 0 must vary; got variance nan"),
        (dead(), DATA, "outputs of 2 must vary"),
        # Biases of variance one vary over the units, and no weight takes that away.
        (network(bias=2.0), DATA, "Scaling the weight of 0 must bring the variance of its outputs to 1; got"),
        (network(bias=2.0), torch.zeros(8, 5), "after 10 passes. Its bias decides"),
        (nn.Sequential(parametrizations.spectral_norm(nn.Linear(5, 4))), DATA, "Scaling the weight of 0"),
    ],
)
def test_where_it_fails_the_model_is_as_it_was(model: nn.Module, batch: Any, message: str) -> None:
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(NumericalError, match=message):
        lsuv(model, batch, generator=generator())
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert not any(module._forward_hooks for module in model.modules())


def test_a_shared_weight_is_scaled_once_by_its_first_layer() -> None:
    first, second = nn.Linear(5, 5, bias=False), nn.Linear(5, 5, bias=False)
    second.weight = first.weight
    report = lsuv(nn.Sequential(first, nn.ReLU(), second), 3 * DATA, generator=generator())
    assert [row.name for row in report] == ["0"]
    assert float(first(3 * DATA).detach().var()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("wrong", [{"tolerance": float("nan")}, {"tolerance": -1.0}, {"max_passes": 1}])
def test_settings_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match="needs a tolerance between 0 and 1 and at least 2 passes"):
        lsuv(network(), DATA, generator=generator(), **wrong)
    with pytest.raises(SettingError, match="must run on the batch"):
        lsuv(network(), DATA[:, :3], generator=generator())
