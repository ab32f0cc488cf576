"""Networks called with other tensors: right, and as they were afterwards, also where a layer has two names."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, vmap

from torchstone.autodiff.functional import pure_function
from torchstone.stateless import StatelessCall, places
from torchstone.training.dp_sgd import fit_privately
from torchstone.training.evaluation import cross_entropy
from torchstone.training.gaussian_weights import StochasticCall


class TwoNames(nn.Module):
    """One layer under two names, one weight in two layers, a buffer."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 3), nn.Linear(3, 3)
        self.again = self.first
        self.last.weight = self.first.weight
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.last(torch.tanh(self.again(self.first(x).relu())))


def problem() -> tuple[TwoNames, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    model = TwoNames()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    return model.double(), torch.randn(6, 3, generator=generator).double(), torch.arange(6) % 3


def by_hand(named: dict[str, Tensor], x: Tensor) -> Tensor:
    weight, first, last = named["first.weight"], named["first.bias"], named["last.bias"]
    hidden = torch.tanh((x @ weight.T + first).relu() @ weight.T + first)
    return named.get("scale", torch.tensor(2.0)) * (hidden @ weight.T + last)


def others(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().cos() for name, p in model.named_parameters()}


def test_every_place_of_a_shared_tensor_is_replaced_and_restored() -> None:
    model, x, _ = problem()
    before, tensors = model(x), dict(model.named_parameters())
    assert set(places(model)) == {"first.weight", "first.bias", "last.weight", "last.bias", "scale"}
    call = StatelessCall(model)
    for named in (others(model), {**others(model), "scale": torch.tensor(3.0).double()}):
        for _ in range(2):  # the second call must not see what the first one put in
            assert torch.allclose(call(named, x), by_hand(named, x), rtol=1e-14)
    assert all(p is tensors[name] for name, p in model.named_parameters())
    assert model.again is model.first
    assert model.last.weight is model.first.weight
    assert torch.equal(model(x), before)


def test_the_network_is_restored_after_an_error() -> None:
    model, x, _ = problem()
    before = model(x)
    with pytest.raises(RuntimeError):
        StatelessCall(model)(others(model), x[:, :2])
    assert torch.equal(model(x), before)


def test_derivatives_and_maps_over_many() -> None:
    model, x, y = problem()
    call = StatelessCall(model, lambda network, x, y: cross_entropy(network, x, y).mean())
    named = others(model)
    slopes = grad(call)(named, x, y)
    leaves = {name: value.clone().requires_grad_() for name, value in named.items()}
    nn.functional.cross_entropy(by_hand(leaves, x), y).backward()
    assert all(
        torch.allclose(slopes[name], leaf.grad, rtol=1e-12)
        for name, leaf in leaves.items()
        if leaf.grad is not None
    )
    many = {name: torch.stack([value, -value]) for name, value in named.items()}
    losses = vmap(lambda tensors: call(tensors, x, y))(many)
    alone = [call({name: value[k] for name, value in many.items()}, x, y) for k in range(2)]
    assert torch.allclose(losses, torch.stack(alone), rtol=1e-12)


def test_pure_functions_of_networks_with_two_names() -> None:
    model, x, _ = problem()
    before, f = model(x), pure_function(model)
    for _ in range(2):
        assert torch.allclose(f(others(model), x), by_hand(others(model), x), rtol=1e-14)
    assert torch.equal(model(x), before)


def test_stochastic_networks_with_two_names() -> None:
    model, x, y = problem()
    call = StochasticCall(model, cross_entropy)
    for k in range(2):
        named = {name: value + k for name, value in others(model).items()}
        expected = nn.functional.cross_entropy(by_hand(named, x), y, reduction="none")
        assert torch.allclose(call(named, x, y, 6), expected, rtol=1e-12)


def test_private_training_of_networks_with_two_names() -> None:
    model, x, y = problem()
    untouched = problem()[0]

    def train(network: nn.Module, steps: int) -> nn.Module:
        fit_privately(
            network, cross_entropy, x, y, optimizer=lambda p: torch.optim.SGD(p, lr=0.1), batch_size=6,
            steps=steps, clip=1e9, noise=0.0, generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
        return network

    train(model, 3)
    for _ in range(3):  # all examples, no noise, no clipping: gradient descent
        losses = cross_entropy(untouched, x, y).mean()
        slopes = torch.autograd.grad(losses, list(untouched.parameters()))
        with torch.no_grad():
            for p, slope in zip(untouched.parameters(), slopes, strict=True):
                p -= 0.1 * slope
    for p, q in zip(model.parameters(), untouched.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=1e-12)
