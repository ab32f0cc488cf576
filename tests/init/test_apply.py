"""Whole models: what is set, why, and that nothing else changes."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from torchstone.errors import SettingError
from torchstone.init import SCHEMES, Scheme, activations_behind, apply, fixup, gain, zero_last


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
        # Delta-orthogonal kernels exist for the convolution only.
        rest = "orthogonal" if scheme == "delta_orthogonal" else scheme
        assert [row.scheme for row in table.rows] == [scheme, "zero", rest, "zero", rest, "zero"]
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
    assert [(row.name, row.scheme) for row in table.rows] == [("0.weight", "xavier"), ("0.bias", "zero")]
    assert not bool(normalised.get_parameter("bias").any())
    frame = parametrizations.orthogonal(nn.Linear(6, 6))
    row = apply(nn.Sequential(frame), "orthogonal", generator=generator()).rows[0]
    weight = frame.weight
    assert isinstance(weight, Tensor)
    torch.testing.assert_close(weight @ weight.T, torch.eye(6), atol=1e-5, rtol=0)
    assert row.why == "no activation behind it"


def test_a_parametrisation_that_keeps_its_own_size_is_said() -> None:
    frame = parametrizations.orthogonal(nn.Linear(6, 6))
    row = apply(nn.Sequential(frame, nn.ReLU()), "kaiming", generator=generator()).rows[0]
    assert row.why == "as near as its parametrisation allows"
    assert row.deviation == pytest.approx(6**-0.5)  # of an orthogonal matrix, not sqrt(2 / 6)


def test_attention_and_recurrent_cells_are_initialised() -> None:
    attention = nn.MultiheadAttention(8, 2)
    rows = {row.name: row for row in apply(attention, "orthogonal", generator=generator()).rows}
    assert rows["in_proj_weight"].why == "queries, keys and values, no activation behind them"
    for part in attention.in_proj_weight.detach().chunk(3):
        torch.testing.assert_close(part @ part.T, torch.eye(8), atol=1e-5, rtol=0)
    apart = nn.MultiheadAttention(8, 2, kdim=4, vdim=6)
    assert all(row.scheme for row in apply(apart, "xavier", generator=generator()).rows)
    cell = nn.LSTMCell(3, 4)
    apply(nn.Sequential(cell), generator=generator())
    for gate in cell.weight_hh.detach().chunk(4):
        torch.testing.assert_close(gate @ gate.T, torch.eye(4), atol=1e-5, rtol=0)
    assert cell.bias_ih.tolist() == [0.0] * 4 + [1.0] * 4 + [0.0] * 8
    projected = nn.LSTM(3, 40, proj_size=20)
    apply(projected, generator=generator())
    # Xavier's bound of the projection as one matrix 20 x 40, not of a fourth of it.
    assert float(projected.get_parameter("weight_hr_l0").detach().abs().max()) == pytest.approx(
        (6 / 60) ** 0.5, rel=0.05
    )


class Called(nn.Module):
    """An activation called as a function, with settings."""

    def __init__(self, call: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.call = nn.Linear(4, 5), nn.Linear(5, 2), call

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.call(self.first(x)))


@pytest.mark.parametrize(
    ("call", "squared_gain"),
    [
        (lambda z: functional.leaky_relu(z, 0.5), 2 / 1.25),
        (lambda z: functional.leaky_relu(z, negative_slope=0.5, inplace=True), 2 / 1.25),
        (lambda z: functional.relu(z, True), 2.0),
        (lambda z: functional.prelu(z, torch.tensor([0.5])), 2 / 1.25),
        (lambda z: functional.elu(z, alpha=0.0), 2.0),
        (lambda z: functional.hardtanh(z, -1e9, 1e9), 1.0),
    ],
)
def test_functions_are_taken_with_the_settings_of_their_call(
    call: Callable[[Tensor], Tensor], squared_gain: float
) -> None:
    rows = apply(Called(call), generator=generator(), batch=torch.ones(3, 4)).rows
    assert rows[0].gain ** 2 == pytest.approx(squared_gain)


def test_a_learned_slope_counts() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.PReLU(2, init=0.5), nn.Linear(4, 2))
    row = apply(model, generator=generator()).rows[0]
    assert (row.activation, row.gain) == ("prelu", pytest.approx((2 / 1.25) ** 0.5))


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (nn.Conv2d(8, 4, 3), "fewer outputs than inputs"),
        (nn.Conv2d(3, 8, 2), "an even kernel"),
        (nn.Conv2d(4, 8, 3, groups=2), "groups"),
        (nn.Linear(3, 3), "no convolution"),
    ],
)
def test_layers_without_a_delta_orthogonal_kernel_get_orthogonal_weights(layer: nn.Module, why: str) -> None:
    row = apply(nn.Sequential(nn.Conv2d(3, 3, 3), layer), "delta_orthogonal", generator=generator()).rows[2]
    assert row.scheme == "orthogonal"
    assert why in row.why


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
        apply(nn.LSTM(2, 2), "best", generator=generator())  # pyright: ignore[reportArgumentType]
    with pytest.raises(SettingError, match="on the meta device"):
        apply(nn.Linear(2, 2, device="meta"), generator=generator())
    with pytest.raises(SettingError, match=r"generator must be a torch\.Generator on the CPU; got None"):
        apply(nn.Linear(2, 2), generator=None)  # pyright: ignore[reportArgumentType]
    with pytest.raises(SettingError, match=r"must run on the batch; got RuntimeError from forward\(\)"):
        apply(nn.Sequential(nn.Linear(2, 2)), generator=generator(), batch=torch.ones(3, 5))


def test_layers_without_inputs_are_left_out_of_the_sizes() -> None:
    with warnings.catch_warnings(action="ignore"):
        model = nn.Sequential(nn.Linear(0, 4), nn.ReLU(), nn.Linear(4, 2))
    for scheme in SCHEMES:
        row = apply(model, scheme, generator=generator()).rows[0]
        assert row.deviation == 0
        assert row.why.startswith("the layer has no inputs or no outputs")


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
