"""Whole models: what is set, why, and that nothing else changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from torchstone.errors import NumericalError, SettingError
from torchstone.init import SCHEMES, Scheme, activations_behind, apply, fixup, gain, lsuv, zero_last


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Functional(nn.Module):
    """Activations as functions, dropout, batch normalisation, an embedding, a recurrent layer and a shared weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 12)
        self.lstm = nn.LSTM(12, 10, batch_first=True)
        self.first = nn.Linear(10, 24)
        self.norm: nn.Module = nn.BatchNorm1d(24)
        self.dropout = nn.Dropout(0.5)
        self.second = nn.Linear(24, 24)
        self.shared: nn.Module = nn.Linear(24, 24)
        self.shared.weight = self.second.weight
        self.head = nn.Linear(24, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        h, _ = self.lstm(self.embedding(tokens))
        h = nn.functional.relu(self.norm(self.first(h[:, -1])))
        h = torch.tanh(self.second(self.dropout(h)))
        return self.head(nn.functional.silu(self.shared(h)))


def tokens() -> Tensor:
    return torch.randint(11, (16, 5), generator=generator())


def test_activations_are_found_by_running_the_model() -> None:
    model = Functional()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    found = {
        name: behind[0]
        for module, behind in activations_behind(model, tokens()).items()
        for name, m in model.named_modules()
        if m is module
    }
    assert found == {"first": "relu", "second": "tanh", "shared": "silu"}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert not activations_behind(model)  # as modules there are none


def test_the_table_says_what_was_set_and_why() -> None:
    model = Functional()
    embedding = model.embedding.weight.clone()
    rows = {row.name: row for row in apply(model, "kaiming", generator=generator(), batch=tokens()).rows}
    assert set(rows) == {name for name, _ in model.named_parameters(remove_duplicate=False)}
    assert rows["first.weight"].gain == pytest.approx(2**0.5)
    assert rows["second.weight"].gain == pytest.approx(gain(torch.tanh))
    assert rows["head.weight"].why == "no activation behind it"
    assert rows["shared.weight"].why == "shared with second.weight"
    assert rows["embedding.weight"].scheme == ""
    assert torch.equal(model.embedding.weight, embedding)
    assert rows["norm.weight"].scheme == "one"
    assert float(model.first.weight.detach().std()) == pytest.approx((2 / 10) ** 0.5, rel=0.2)
    assert float(model.first.bias.detach().abs().max()) == 0
    recurrent = dict(model.lstm.named_parameters())
    for gate in recurrent["weight_hh_l0"].chunk(4):
        torch.testing.assert_close(gate @ gate.T, torch.eye(10), atol=1e-5, rtol=0)
    assert recurrent["bias_ih_l0"].tolist() == [0.0] * 10 + [1.0] * 10 + [0.0] * 20


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_on_a_convolutional_network_of_each_type(scheme: Scheme) -> None:
    for kind in (torch.float32, torch.float64, torch.bfloat16):
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3, groups=1),
            nn.GELU(),
            nn.ConvTranspose2d(8, 4, 3),
            nn.Flatten(),
            nn.LazyLinear(2),
        )
        model(torch.zeros(1, 1, 6, 6))
        model.to(kind)
        state = torch.get_rng_state()
        table = apply(model, scheme, generator=generator())
        assert torch.equal(torch.get_rng_state(), state)
        assert {row.scheme for row in table.rows} == {scheme, "zero"}
        assert all(bool(p.isfinite().all()) for p in model.parameters())
        assert str(table).count("\n") == 6
        weights = [p.clone() for p in model.parameters()]
        apply(model, scheme, generator=generator())
        assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))


def test_parametrised_weights_get_the_weight_that_was_drawn() -> None:
    plain, normalised = nn.Linear(6, 5), parametrizations.weight_norm(nn.Linear(6, 5))
    apply(nn.Sequential(plain), "xavier", generator=generator())
    table = apply(nn.Sequential(normalised), "xavier", generator=generator())
    torch.testing.assert_close(normalised.weight, plain.weight)
    assert table.rows[0].name == "0.weight"
    frame = parametrizations.orthogonal(nn.Linear(6, 6))
    apply(nn.Sequential(frame), "orthogonal", generator=generator())
    weight = frame.weight
    assert isinstance(weight, Tensor)
    torch.testing.assert_close(weight @ weight.T, torch.eye(6), atol=1e-5, rtol=0)


def test_a_given_activation_goes_everywhere_but_behind_the_last_layer() -> None:
    model = nn.Sequential(nn.Linear(9, 9), nn.Linear(9, 9))
    rows = apply(model, generator=generator(), activation=torch.relu).rows
    assert [row.activation for row in rows if row.name.endswith("weight")] == ["relu", "none"]


def test_models_that_cannot_be_initialised_are_refused() -> None:
    with pytest.raises(SettingError, match="must have layers to initialise"):
        apply(nn.Sequential(nn.ReLU()), generator=generator())
    with pytest.raises(SettingError, match=r"lazy 0\.weight"):
        apply(nn.Sequential(nn.LazyLinear(3)), generator=generator())
    with pytest.raises(SettingError, match="scheme must be one of"):
        apply(nn.Linear(2, 2), "best", generator=generator())  # pyright: ignore[reportArgumentType]


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


class Residual(nn.Module):
    """A network of residual branches without normalisation."""

    def __init__(self, depth: int, width: int = 32) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)) for _ in range(depth)
        )
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        for branch in self.branches:
            x = x + branch(x)
        return self.head(x)


def test_branches_that_start_at_zero_make_the_identity() -> None:
    model = Residual(5)
    assert zero_last(list(model.branches)) == [f"branch {i}: Linear" for i in range(5)]
    x = torch.randn(4, 32, generator=generator())
    assert torch.equal(model(x), nn.functional.linear(x, model.head.weight, model.head.bias))
    normalised = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.ReLU())
    assert zero_last([normalised]) == ["branch 0: LayerNorm"]
    assert torch.equal(normalised(x[:, :4]), torch.zeros(4, 4))
    with pytest.raises(SettingError, match="Branch 0 must have parameters"):
        zero_last([nn.Identity()])


@pytest.mark.parametrize("depth", [4, 16, 64])
def test_a_fixup_step_changes_the_outputs_alike_at_every_depth(depth: int) -> None:
    """The change of the outputs by two small SGD steps stays of one order while the depth grows by 16."""
    model = Residual(depth).double()
    factor = fixup(list(model.branches), model.head, generator=generator())
    assert factor == pytest.approx(depth**-0.5)
    x = torch.randn(16, 32, generator=generator(1), dtype=torch.float64)
    y = torch.randint(10, (16,), generator=generator(2))
    assert float(model(x).detach().abs().max()) == 0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    assert 1e-3 < float(model(x).detach().abs().max()) < 0.2


def test_fixup_refuses_what_has_no_branches() -> None:
    with pytest.raises(SettingError, match="needs residual branches"):
        fixup([], generator=generator())
    with pytest.raises(SettingError, match="Branch 0 must have linear or convolution layers"):
        fixup([nn.ReLU()], generator=generator())
