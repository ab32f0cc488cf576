from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import grad as imported_grad

from torchstone.errors import SettingError
from torchstone.robust import (
    Flag,
    cross_entropy,
    differentiate,
    dynamic,
    fgsm,
    margin,
    misclassify,
    pgd,
    probabilities,
    random_noise,
    randomised,
    targeted_apgd,
    weaker_attack_wins,
    zero_gradients,
)


@pytest.fixture
def inputs() -> Tensor:
    return torch.randn(32, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_an_ordinary_network_raises_no_flag(network, inputs: Tensor) -> None:
    model = network(6, 16, 4).float()
    x = inputs.float()
    goal = misclassify(model, model(x).argmax(1))
    noise = random_noise(goal, x, 0.3, generator=torch.Generator().manual_seed(0))
    strong = targeted_apgd(model, model(x).argmax(1), x, 0.3)
    gradient = differentiate(goal, x).gradient
    assert gradient is not None
    findings = [
        randomised([model(x), model(x), model(x)]),
        probabilities(model(x)),
        zero_gradients(gradient),
        weaker_attack_wins(strong.success, noise.success),
        weaker_attack_wins(strong.success, fgsm(goal, x, 0.3).success, ("iterated", "one-step")),
        dynamic(model, x),
    ]
    assert {finding.flag for finding in findings} == set(Flag)
    for finding in findings:
        assert not finding.raised
        assert finding.advice == ""
        assert finding.words.endswith(".")


def test_random_models_are_found(network, inputs: Tensor) -> None:
    model = network(6, 16, 4)
    noise = torch.Generator().manual_seed(0)
    passes = [
        model(inputs + 0.01 * torch.randn(inputs.shape, generator=noise, dtype=torch.float64))
        for _ in range(3)
    ]
    found = randomised(passes)
    assert found.raised
    units = [p.detach() / p.detach().norm(dim=1, keepdim=True) for p in passes]
    largest = max(float((a - b).norm(dim=1).max()) for a in units for b in units)
    assert found.value == pytest.approx(largest, rel=1e-12)
    assert "expectation over transformation" in found.advice
    # A change of a prediction counts even where outputs hardly move.
    tied = torch.tensor([[1.0, 1.0 + 1e-9]], dtype=torch.float64)
    assert randomised([tied, tied.flip(1)]).raised
    assert randomised([torch.full((2, 3), torch.nan)] * 2).raised
    assert not randomised([torch.zeros(0, 3)] * 2).raised


def test_softmax_in_the_model_is_found(network, inputs: Tensor) -> None:
    logits = network(6, 16, 4)(inputs)
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        assert probabilities(logits.softmax(1).to(dtype)).raised
    found = probabilities((100 * logits).softmax(1))
    assert found.raised
    assert "return logits" in found.advice
    assert not probabilities(logits.log_softmax(1)).raised
    assert not probabilities(logits.sigmoid()).raised
    assert not probabilities(torch.ones(3, 1)).raised
    assert not probabilities(torch.zeros(0, 4)).raised


def test_saturated_cross_entropy_is_found_and_the_margin_is_the_way_out(network, inputs: Tensor) -> None:
    base = network(6, 16, 4).float()
    x = inputs.float()
    labels = base(x).argmax(1)

    def confident(z: Tensor) -> Tensor:
        return 1e5 * base(z)

    stuck = misclassify(confident, labels, cross_entropy)
    gradient = differentiate(stuck, x).gradient
    assert gradient is not None
    found = zero_gradients(gradient)
    assert found.raised
    assert found.value == float((gradient == 0).all(dim=1).double().mean())
    assert found.value > 0.9
    assert "margin" in found.advice
    free = misclassify(confident, labels, margin)
    slope = differentiate(free, x).gradient
    assert slope is not None
    assert not zero_gradients(slope).raised
    assert pgd(stuck, x, 0.5).success.sum() < pgd(free, x, 0.5).success.sum()


def test_quantised_inputs_and_broken_gradients_are_found() -> None:
    goal = misclassify(lambda x: torch.stack([x.round().sum(1), x.sum(1) * 0], 1), torch.tensor([0, 0]))
    gradient = differentiate(goal, torch.tensor([[0.4, 0.7], [2.0, 3.0]])).gradient
    assert gradient is not None
    assert zero_gradients(gradient).value == 1.0
    assert zero_gradients(torch.tensor([[1.0, torch.nan], [1.0, 2.0]])).value == 0.5
    assert not zero_gradients(torch.tensor([[0.0], [1.0]]), tolerance=0.5).raised
    assert not zero_gradients(torch.zeros(0, 3)).raised


class _Shattered(torch.autograd.Function):
    """The identity, with a gradient of the wrong sign."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # noqa: ARG004
        return x.clone()

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor) -> Tensor:  # noqa: ARG004
        return -grad_outputs[0]


def test_masked_gradients_lose_against_noise(network, inputs: Tensor) -> None:
    base = network(6, 16, 4)
    goal = misclassify(lambda x: base(_Shattered.apply(x)), base(inputs).argmax(1))
    white = pgd(goal, inputs, 0.3)
    noise = random_noise(goal, inputs, 0.3, generator=torch.Generator().manual_seed(0))
    found = weaker_attack_wins(white.success, noise.success)
    assert found.raised
    assert found.value == float((noise.success & ~white.success).double().mean())
    assert "breaks" in found.words
    assert "Do not report" in found.advice
    assert not weaker_attack_wins(torch.ones(500, dtype=torch.bool), torch.ones(500, dtype=torch.bool)).raised
    one_of_500 = torch.arange(500) == 0
    assert not weaker_attack_wins(~one_of_500, one_of_500).raised
    assert weaker_attack_wins(~one_of_500, one_of_500, tolerance=0.0).raised
    assert not weaker_attack_wins(one_of_500[:0], one_of_500[:0]).raised


def _purified(x: Tensor, take) -> Tensor:
    with torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        return x - 0.1 * take(leaf.square().sum(), leaf)


def _by_backward(total: Tensor, leaf: Tensor) -> Tensor:
    total.backward()
    assert leaf.grad is not None
    return leaf.grad


def _by_autograd_backward(total: Tensor, leaf: Tensor) -> Tensor:
    torch.autograd.backward(total)
    assert leaf.grad is not None
    return leaf.grad


WAYS = {
    "backward": lambda x: _purified(x, _by_backward),
    "torch.autograd.backward": lambda x: _purified(x, _by_autograd_backward),
    "torch.autograd.grad": lambda x: _purified(x, lambda t, leaf: torch.autograd.grad(t, leaf)[0]),
    "a name imported before": lambda x: _purified(x, lambda t, leaf: imported_grad(t, leaf)[0]),
    "torch.func.grad": lambda x: x - 0.1 * torch.func.grad(lambda v: v.square().sum())(x),
    "torch.func.vjp": lambda x: x - 0.1 * torch.func.vjp(torch.square, x)[1](torch.ones_like(x))[0],
}


@pytest.mark.parametrize("way", WAYS)
def test_gradients_inside_the_forward_pass_are_found(network, inputs: Tensor, way: str) -> None:
    model = network(6, 16, 4)
    found = dynamic(lambda x: model(WAYS[way](x)), inputs)
    assert found.raised
    assert found.value >= 1
    assert "optimisation inside the forward pass" in found.advice


def test_ordinary_layers_are_not_dynamic() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    assert not dynamic(layer, torch.zeros(2, 3, 8)).raised
    with torch.enable_grad():
        assert not dynamic(lambda x: F.relu(x.requires_grad_()), torch.zeros(2, 3)).raised


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(SettingError, match="at least two passes"):
        randomised([torch.zeros(2, 3)])
    with pytest.raises(SettingError, match="over the same inputs"):
        randomised([torch.zeros(2, 3), torch.zeros(3, 3)])
    with pytest.raises(SettingError, match="two attacks on the same examples"):
        weaker_attack_wins(torch.zeros(2, dtype=torch.bool), torch.zeros(3, dtype=torch.bool))
