"""Outputs of layers, one row an example, for every layout of layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchstone.errors import NotApplicableError
from torchstone.objectives import Classification
from torchstone.specimen import Specimen
from torchstone.testing import model_state, same_state
from torchstone.workbench import Workbench
from torchstone.workbench.features import MAX_LAYERS, as_rows, layer_features, recording


def specimen(model: nn.Module, x: Tensor, batch_size: int = 5) -> Specimen:
    return Specimen(model, Classification(), (x, torch.arange(len(x)) % 2), batch_size=batch_size)


def vectors(count: int = 13) -> Tensor:
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(0))


def drawn(model: nn.Module) -> Any:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def data(*shape: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(10, *shape, generator=torch.Generator().manual_seed(1))
    return x, torch.arange(10) % 3


def features(model: nn.Module, *shape: int, batch_size: int = 4, width: int = 4096) -> dict[str, Tensor]:
    one = Specimen(model, Classification(), data(*shape), batch_size=batch_size)
    return layer_features(one, "train", width)


def test_features_are_the_layers_outputs() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Dropout(), nn.Flatten(), nn.Linear(3, 2))
    x = vectors()
    before = model_state(model)
    found = layer_features(specimen(model, x), "train", width=100)
    assert same_state(before, model_state(model))
    assert list(found) == ["0", "1", "4"]  # dropout and reshapes are left out
    model.eval()
    with torch.no_grad():
        assert torch.allclose(found["0"], model[0](x))
        assert torch.allclose(found["1"], model[:2](x))
        assert torch.allclose(found["4"], model(x))
    assert all(values.dtype == torch.float32 for values in found.values())


def test_calls_of_one_module_are_told_apart() -> None:
    class Again(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(self.layer(torch.relu(self.layer(x)))))

    assert list(layer_features(specimen(Again(), vectors()), "train", 100)) == ["layer", "layer#2", "head"]


@pytest.mark.parametrize(
    ("shape", "examples", "width", "expected"),
    [
        ((6, 3), 6, 100, (6, 3)),
        ((6,), 6, 100, (6, 1)),
        ((6, 5, 3), 6, 100, (6, 3)),  # positions are averaged
        ((5, 6, 3), 6, 100, (6, 3)),  # sequence first
        ((6, 2, 4, 4), 6, 100, (6, 32)),
        ((6, 2, 4, 4), 6, 31, (6, 2)),  # too wide: pixels are averaged
        ((), 6, 100, None),
        ((5, 3), 6, 100, None),
        ((12, 3), 6, 100, None),
        ((5, 4, 3), 6, 100, None),
    ],
)
def test_rows(shape: tuple[int, ...], examples: int, width: int, expected: tuple[int, ...] | None) -> None:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    rows = as_rows(values, examples, width)
    assert (None if rows is None else tuple(rows.shape)) == expected


def test_means_of_positions_and_pixels() -> None:
    values = torch.randn(6, 5, 3, generator=torch.Generator().manual_seed(0))
    rows = as_rows(values, 6, 100)
    assert rows is not None
    assert torch.allclose(rows, values.mean(1))
    first = as_rows(values.transpose(0, 1), 6, 100)
    assert first is not None
    assert torch.allclose(first, rows)


def test_deep_networks_are_thinned_evenly_with_both_ends() -> None:
    model = nn.Sequential(*[nn.Linear(4, 4) for _ in range(60)], nn.Linear(4, 2))
    names = list(layer_features(specimen(model, vectors()), "train", 100))
    assert len(names) == MAX_LAYERS
    assert (names[0], names[-1]) == ("0", "60")


def test_copies_are_left_out() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.ReLU(), nn.Linear(4, 2))
    assert list(layer_features(specimen(model, vectors()), "train", 100)) == ["0", "1", "3"]


def test_attention_stands_for_its_projections() -> None:
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.head = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.attention(x, x, x)[0].mean(1))

    x = torch.randn(7, 3, 4, generator=torch.Generator().manual_seed(0))
    found = layer_features(specimen(Attends(), x), "train", 100)
    assert {name: tuple(values.shape) for name, values in found.items()} == {
        "attention": (7, 4),
        "head": (7, 2),
    }


def test_a_network_without_rows() -> None:
    class Turns(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * x.T

    class Sideways(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.turns = Turns()

        def forward(self, x: Tensor) -> Tensor:
            return self.turns(x).T[:, :2]

    with pytest.raises(NotApplicableError, match="one row per example"):
        layer_features(specimen(Sideways(), vectors()), "train", 100)


def test_hooks_go_even_when_forward_raises() -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    with pytest.raises(RuntimeError), recording(model, lambda *_: None):
        model(torch.zeros(2, 5))
    assert not any(module._forward_hooks for module in model.modules())


def test_integer_outputs_are_no_features() -> None:
    class Argmax(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return x.argmax(1)

    names: list[str] = []
    model = nn.Sequential(nn.Linear(4, 3), Argmax())
    with recording(model, lambda name, *_: names.append(name)):
        model(vectors())
    assert names == ["0"]


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("batch_size", [3, 100])
def test_features_are_the_layers_outputs_also_where_the_next_one_overwrites_them(
    inplace: bool, batch_size: int
) -> None:
    model = drawn(nn.Sequential(nn.Linear(5, 8), nn.ReLU(inplace), nn.Linear(8, 3)))
    found = features(model, 5, batch_size=batch_size)
    hidden = F.linear(data(5)[0], model[0].weight, model[0].bias).detach()
    assert list(found) == ["0", "1", "2"]
    assert torch.allclose(found["0"], hidden, atol=1e-5)
    assert torch.allclose(found["1"], hidden.relu(), atol=1e-5)
    assert torch.allclose(found["2"], F.linear(hidden.relu(), model[2].weight, model[2].bias), atol=1e-4)


@pytest.mark.parametrize("width", [4096, 20])
def test_wide_maps_are_averaged_over_positions_and_narrow_ones_kept(width: int) -> None:
    """Channels are units of one-dimensional convolutions too."""
    model = drawn(
        nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 3))
    )
    found = features(model, 2, 9, width=width)
    maps = F.conv1d(data(2, 9)[0], model[0].weight, model[0].bias).detach()
    assert torch.allclose(found["0"], maps.flatten(1) if width > 28 else maps.mean(2), atol=1e-5)
    assert torch.allclose(
        found["1"], maps.relu().flatten(1) if width > 28 else maps.relu().mean(2), atol=1e-5
    )


def test_maps_with_channels_last_are_averaged_over_positions() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.layer, self.act = (
                nn.Conv2d(1, 6, 1),
                nn.LayerNorm(6),
                nn.Linear(6, 5),
                nn.GELU(),
            )
            self.head = nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.act(self.layer(self.norm(self.conv(x).permute(0, 2, 3, 1)))).mean((1, 2)))

    found = features(drawn(Last()), 1, 4, 4, width=10)
    assert {name: one.shape[1] for name, one in found.items()} == {
        "conv": 6, "norm": 6, "layer": 5, "act": 5, "head": 3,
    }  # fmt: skip


@pytest.mark.parametrize("batch_first", [True, False])
def test_sequences_are_averaged_over_positions(batch_first: bool) -> None:
    class Sequence(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.GRU(3, 4, batch_first=batch_first), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            out = self.rnn(x if batch_first else x.transpose(0, 1))[0]
            return self.head(out[:, -1] if batch_first else out[-1])

    model = drawn(Sequence())
    found = features(model, 6, 3)
    with torch.no_grad():
        x = data(6, 3)[0]
        out = model.rnn(x if batch_first else x.transpose(0, 1))[0].mean(1 if batch_first else 0)
    assert torch.allclose(found["rnn"], out, atol=1e-5)


def test_half_precision_is_widened() -> None:
    found = features(drawn(nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 3))).bfloat16(), 5)
    assert all(one.dtype == torch.float32 for one in found.values())


def test_the_workbench_keeps_them() -> None:
    specimen = Specimen(drawn(nn.Sequential(nn.Linear(5, 8), nn.Linear(8, 3))), Classification(), data(5))
    bench = Workbench.on(specimen)
    assert bench.features() is bench.features()
    assert bench.specimen.passes.forward == 10
