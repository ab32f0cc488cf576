"""The gradient at the output of every layer on its way back, against plain autograd."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchstone.objectives import Classification
from torchstone.specimen import Specimen
from torchstone.workbench.signals import backward_signals


def test_signals_against_plain_autograd_also_past_in_place_activations() -> None:
    for activation in (nn.ReLU(), nn.ReLU(inplace=True)):
        model = nn.Sequential(nn.Linear(64, 20), activation, nn.Linear(20, 10))
        generator = torch.Generator().manual_seed(4)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 5)
        x = torch.randn(9, 64, generator=generator)
        y = x[:, :10].argmax(1)
        found = backward_signals(Specimen(model, Classification(), (x, y), batch_size=4)).layers
        z = F.linear(x, model[0].weight, model[0].bias).detach().requires_grad_(True)  # pyright: ignore[reportArgumentType]
        scores = model[2](torch.relu(z))
        expected = torch.autograd.grad(F.cross_entropy(scores, y, reduction="sum"), z)[0].square().sum(1)
        assert torch.allclose(found["0"], expected.double(), rtol=1e-5)
        assert list(found) == ["0", "2"]


@pytest.mark.parametrize("batch_first", [True, False])
def test_the_last_state_of_a_recurrent_layer_counts_as_its_output(batch_first: bool) -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.gru, self.head = (
                nn.Linear(4, 6),
                nn.GRU(6, 8, batch_first=batch_first),
                nn.Linear(8, 3),
            )
            generator = torch.Generator().manual_seed(9)
            with torch.no_grad():
                for parameter in self.parameters():
                    parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.into(x if batch_first else x.transpose(0, 1))
            return self.head(self.gru(hidden)[1][0])

    x = torch.randn(20, 5, 4, generator=torch.Generator().manual_seed(6))
    specimen = Specimen(Last(), Classification(), (x, x[:, -1, :3].argmax(1)), batch_size=7)
    found = backward_signals(specimen)
    assert list(found.layers) == ["into", "gru", "head"]
    assert all(bool((squared > 0).all()) for squared in found.layers.values())
    assert found.steps["gru"].shape == (20, 5)
    # The gradient at the recurrent layer's input is that at the output of the layer before it.
    assert torch.allclose(found.steps["gru"].sum(1), found.layers["into"])


def test_layers_that_the_loss_does_not_use_are_left_out() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.idle, self.first, self.head = nn.Linear(64, 2), nn.Linear(64, 8), nn.Linear(8, 10)

        def forward(self, x: Tensor) -> Tensor:
            self.idle(x)
            return self.head(self.first(x))

    x = torch.randn(9, 64, generator=torch.Generator().manual_seed(0))
    specimen = Specimen(Idle(), Classification(), (x, x[:, :10].argmax(1)))
    assert list(backward_signals(specimen).layers) == ["first", "head"]


def test_each_call_of_a_layer_has_its_own_gradient() -> None:
    layer = nn.Linear(10, 10).double()
    with torch.no_grad():
        layer.weight.copy_(0.3 * torch.randn(10, 10, generator=torch.Generator().manual_seed(1)))
        layer.bias.zero_()
    x = torch.randn(9, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = x.argmax(1)
    found = backward_signals(
        Specimen(nn.Sequential(layer, nn.Tanh(), layer), Classification(), (x, y))
    ).layers
    first = layer(x)
    last = layer(first.tanh())
    loss = F.cross_entropy(last, y, reduction="sum")
    expected = [gradient.square().sum(1) for gradient in torch.autograd.grad(loss, (first, last))]
    assert list(found) == ["0", "0#2"]
    for squared, exact in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(squared, exact)
