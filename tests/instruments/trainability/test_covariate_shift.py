"""Internal covariate shift: against closed forms, with earlier layers frozen, and at rates that are too large."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from torchstone.batches import same_bits
from torchstone.errors import NotApplicableError
from torchstone.instruments.measurement import measure
from torchstone.instruments.trainability.covariate_shift import CovariateShift, drift, judge
from torchstone.objectives import Classification, Regression
from torchstone.reading import Level
from torchstone.recipe import Recipe
from torchstone.specimen import Specimen
from torchstone.workbench import Workbench
from torchstone.workbench.gradient_shift import gradient_shifts, layer_parameters, stepping
from torchstone.workbench.input_moments import Moments

F64 = torch.float64


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def network(*widths: int, norm: bool = False) -> nn.Sequential:
    layers: list[nn.Module] = []
    for position, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
        layer = nn.Linear(fan_in, fan_out, dtype=F64)
        with torch.no_grad():
            layer.weight.copy_(draw(fan_out, fan_in, seed=position) * (2 / fan_in) ** 0.5)
            layer.bias.zero_()
        norms = [nn.BatchNorm1d(fan_out, dtype=F64)] if norm else []
        layers += [layer, *norms, nn.ReLU()] if position < len(widths) - 2 else [layer]
    return nn.Sequential(*layers)


def specimen(model: nn.Module, lr: float = 0.1, **options: object) -> Specimen:
    x = draw(96, 8, seed=9)
    data = (x, x[:, :3].argmax(1))
    return Specimen(model, Classification(), data, recipe=Recipe(lr=lr), batch_size=96, **options)  # pyright: ignore[reportArgumentType]


def test_two_scalar_layers_in_closed_form() -> None:
    """Loss (b a x - y)^2: dL/db = 2 (a b x - y) a x, which a step of a alone changes to the same with a' = a - lr dL/da."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False, dtype=F64), nn.Linear(1, 1, bias=False, dtype=F64))
    a, b, x, y, lr = 1.5, -0.7, 2.0, 1.0, 0.05
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), (a, b), strict=True):
            parameter.fill_(value)
    data = (torch.full((4, 1), x, dtype=F64), torch.full((4, 1), y, dtype=F64))
    first, second = gradient_shifts(Specimen(model, Regression(), data), lr)
    of_b = lambda a: 2 * (a * b * x - y) * a * x
    moved = a - lr * 2 * (a * b * x - y) * b * x
    assert first.change == 0
    assert (second.size, second.after) == pytest.approx((abs(of_b(a)), abs(of_b(moved))))
    assert second.change == pytest.approx(abs(of_b(moved) - of_b(a)))
    assert second.cosine == pytest.approx(math.copysign(1, of_b(a) * of_b(moved)))


@pytest.mark.parametrize("mode", ["eval", "as_is"])
def test_each_layer_against_explicit_copies(mode: str) -> None:
    model = network(8, 12, 12, 3, norm=True).train()
    x, y = draw(96, 8, seed=9), draw(96, 8, seed=9)[:, :3].argmax(1)

    def gradients(network: nn.Module) -> list[Tensor]:
        network.train(mode == "as_is")
        loss = nn.functional.cross_entropy(network(x), y)
        return list(torch.autograd.grad(loss, list(network.parameters())))

    start = gradients(copy.deepcopy(model))
    found = gradient_shifts(specimen(model, mode=mode), 0.3)
    # Parameters: weight and bias of a layer, then scale and shift of the normalisation behind it.
    for layer, (begin, end) in enumerate([(0, 4), (4, 8), (8, 10)]):
        moved = copy.deepcopy(model)
        with torch.no_grad():
            for parameter, gradient in list(zip(moved.parameters(), start, strict=True))[:begin]:
                parameter.sub_(0.3 * gradient)
        difference = [a - b for a, b in zip(gradients(moved), start, strict=True)][begin:end]
        expected = float(torch.cat([part.flatten() for part in difference]).norm())
        assert found[layer].change == pytest.approx(expected, rel=1e-9, abs=1e-14)
    assert found[1].change > 1e-3


def test_it_is_zero_where_earlier_layers_are_frozen() -> None:
    model = network(8, 12, 12, 12, 3)
    for layer in (model[0], model[2]):
        layer.requires_grad_(False)
    found = {one.layer: one for one in gradient_shifts(specimen(model), 0.5)}
    assert list(found) == ["4", "6"]
    assert found["4"].change <= 1e-12 < found["4"].size
    assert found["6"].change > 1e-3


def test_the_model_stays_as_it_is_bit_for_bit_also_when_something_fails() -> None:
    model = network(8, 12, 3, norm=True).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ready = specimen(model, mode="as_is")
    gradient_shifts(ready, 10.0)
    with pytest.raises(KeyError), stepping(ready, 1.0):
        raise KeyError
    assert all(same_bits(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_layers_come_in_order_of_execution_with_what_belongs_to_them() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(4, 3, dtype=F64)
            self.norm = nn.LayerNorm(4, dtype=F64)
            self.first = nn.Linear(8, 4, dtype=F64)
            self.never = nn.Linear(2, 2, dtype=F64)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.norm(self.first(x)))

    groups = layer_parameters(specimen(Net()))
    assert list(groups) == ["model", "first", "last"]  # what is never called belongs to the whole
    assert groups["first"] == ["first.weight", "first.bias", "norm.weight", "norm.bias"]
    assert [one.layer for one in gradient_shifts(specimen(Net()), 0.1)] == ["first", "last"]


def test_few_layers_are_chosen_but_all_earlier_ones_move() -> None:
    ready = specimen(network(8, *([6] * 9), 3))
    everything = {one.layer: one.change for one in gradient_shifts(ready, 0.2, layers=100)}
    some = {one.layer: one.change for one in gradient_shifts(ready, 0.2, layers=3)}
    assert (len(everything), len(some)) == (10, 4)
    assert all(everything[name] == change for name, change in some.items())


def test_the_reading_is_small_at_a_small_rate_and_poor_or_worse_at_an_absurd_one() -> None:
    read = lambda lr: measure(CovariateShift(), Workbench.on(specimen(network(8, 12, 12, 12, 3), lr)))
    small, half = read(1e-3), read(5e-4)
    assert small.verdict.level is Level.GOOD
    assert small.value is not None
    assert small.value == pytest.approx(2 * (half.value or 0), rel=0.05)  # proportional to the rate
    absurd = read(1e3)
    assert absurd.verdict.level in (Level.ATTENTION, Level.POOR) or (absurd.value or 0) > 100
    assert [detail.title for detail in small.details][-1].startswith("Drift")


def test_one_layer_or_a_frozen_rest_does_not_apply() -> None:
    for model in (network(8, 3), network(8, 5, 3)):
        if len(model) > 1:
            model[0].requires_grad_(False)
        reading = measure(CovariateShift(), Workbench.on(specimen(model)))
        assert reading.verdict.level is Level.NOT_APPLICABLE
        assert "two layers" in reading.verdict.reason
    with pytest.raises(NotApplicableError, match="trainable weights"):
        layer_parameters(specimen(network(8, 3).requires_grad_(False)))


def test_drift_of_moments_by_hand() -> None:
    before = Moments(torch.tensor([0.0, 1.0, 5.0]), torch.diag(torch.tensor([1.0, 4.0, 0.0])), 10, 3)
    after = Moments(torch.tensor([1.0, 1.0, 9.0]), torch.diag(torch.tensor([1.0, 9.0, 0.0])), 10, 3)
    mean, deviation = drift(before, after)
    assert mean == pytest.approx((1 / 2) ** 0.5)
    assert deviation == pytest.approx((0.25 / 2) ** 0.5)


def test_judgements() -> None:
    assert judge(0.3, 0.9).level is Level.GOOD
    assert judge(2.0, -0.1).level is Level.ATTENTION
    assert judge(math.inf, math.nan).level is Level.POOR
