"""Weight sizes: invariances, unrolled convolutions, and complexities above what members of the class reach."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from torchstone.bounds.convolution import ConvolutionLayer
from torchstone.bounds.dense import DenseLayer
from torchstone.bounds.l1_margin import l1_margin_bound
from torchstone.bounds.margin import margin_choices
from torchstone.bounds.rademacher import rademacher_linear
from torchstone.bounds.spectral_margin import ramp_loss
from torchstone.bounds.weight_size import (
    l1_rademacher,
    largest_coordinate_norm,
    log_classes,
    two_layer_rademacher,
    weight_size,
)
from torchstone.errors import NumericalError, SettingError


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def signs(*shape: int, seed: int = 1) -> Tensor:
    return torch.randint(2, shape, generator=torch.Generator().manual_seed(seed)).double() * 2 - 1


def duplicated(first: DenseLayer, last: DenseLayer, copies: int) -> list[DenseLayer]:
    assert first.bias is not None
    return [
        DenseLayer(first.weight.repeat(copies, 1), first.bias.repeat(copies)),
        DenseLayer(last.weight.repeat(1, copies) / copies, last.bias),
    ]


def test_duplicating_units_changes_the_count_but_not_the_bound() -> None:
    """Ten copies of each unit with a tenth of its outgoing weights are the same function of the same size."""
    first, last = DenseLayer(drawn(30, 8), drawn(30)), DenseLayer(drawn(3, 30), drawn(3))
    small, large = weight_size([first, last]), weight_size(duplicated(first, last, 10))
    assert large.weights > 9.5 * small.weights
    assert abs(large.value / small.value - 1) < 1e-9
    bounds = [l1_margin_bound(drawn(500).abs() + 5, one.value, 30.0, 9, 2, 3).value for one in (small, large)]
    assert abs(bounds[1] / bounds[0] - 1) < 1e-9


def test_norms_by_hand_with_biases() -> None:
    layers = [
        DenseLayer(torch.tensor([[0.1, -0.2], [0.3, 0.0]]), torch.tensor([0.1, -0.4])),
        DenseLayer(torch.tensor([[2.0, -1.0], [0.5, 0.5]]), torch.tensor([1.0, 0.0])),
    ]
    found = weight_size(layers)
    # The constant unit carries 1, so that a hidden layer's size is at least 1.
    assert found.layers == pytest.approx((1.0, 5.0), rel=1e-6)
    assert found.augmented
    bare = weight_size([DenseLayer(layer.weight) for layer in layers], lipschitz=[2.0, 1.0])
    assert bare.layers == pytest.approx((0.6, 4.0), rel=1e-6)


def test_a_convolution_is_at_most_a_border_above_its_matrix() -> None:
    kernel = drawn(3, 2, 3, 3)
    layer = ConvolutionLayer(kernel, (5, 5), padding=((1, 1), (1, 1)))
    module = nn.Conv2d(2, 3, 3, padding=1, bias=False).double()
    with torch.no_grad():
        module.weight.copy_(kernel)
        matrix = module(torch.eye(50, dtype=torch.float64).view(50, 2, 5, 5)).flatten(1).T
    head = DenseLayer(drawn(2, 75))
    found = weight_size([layer, head])
    # Units away from the border see the whole kernel.
    assert found.layers[0] == pytest.approx(float(matrix.abs().sum(1).max()), rel=1e-12)
    assert found.layers[1] == pytest.approx(float(head.weight.abs().sum()), rel=1e-12)
    only = weight_size([layer])
    assert only.value >= float(matrix.abs().sum())


def test_rescaling_layers_without_biases() -> None:
    first, last = drawn(6, 4), drawn(2, 6, seed=3)
    base = weight_size([DenseLayer(first), DenseLayer(last)]).value
    scaled = weight_size([DenseLayer(first * 100), DenseLayer(last / 100)]).value
    assert scaled == pytest.approx(base, rel=1e-12)


def test_one_layer_is_massarts_bound_on_the_exact_complexity() -> None:
    x = drawn(40, 6)
    norm = largest_coordinate_norm(x)
    bound = l1_rademacher(3.0, norm, 6, 40, depth=1)
    assert bound == pytest.approx(3 * norm * math.sqrt(2 * math.log(12)) / 40, rel=1e-12)
    exact = rademacher_linear(x, 3.0, torch.Generator().manual_seed(0), order=1)
    assert exact.value < bound < 2 * exact.value


@pytest.mark.parametrize("depth", [2, 4])
@pytest.mark.parametrize("outputs", [1, 3])
def test_no_member_of_the_class_beats_the_complexity(depth: int, outputs: int) -> None:
    """The mean over signs of the best of many members is below the supremum, so below the bound."""
    n, d, size = 30, 5, 1.5
    x, generator = drawn(n, d), torch.Generator().manual_seed(2)
    values = []
    for _ in range(400):
        h, width = x, d
        for _layer in range(depth - 1):
            w = torch.randn(12, width, generator=generator, dtype=torch.float64)
            # Sparse rows are near the corners of the l1 ball, where suprema are.
            w = torch.where(w.abs() >= w.abs().amax(1, keepdim=True), w, 0 * w)
            h, width = torch.relu(h @ (size * w / w.abs().sum(1, keepdim=True)).T), 12
        values.append(h.T)
    units = torch.cat(values)  # (members, n), each reached by one hidden unit of the last hidden layer
    sigma = signs(2000, outputs, n)
    best = (sigma @ units.T).abs().amax(dim=(1, 2)) * size / n
    bound = l1_rademacher(size**depth, largest_coordinate_norm(x), d, n, depth, outputs)
    assert float(best.mean()) < bound
    # And the bound is of the right size, not astronomically above.
    assert bound < 40 * float(best.mean())


def test_no_pooled_member_beats_the_complexity() -> None:
    n, d, window = 25, 6, 3
    x = drawn(n, d)
    choices = torch.combinations(torch.arange(d), window)
    pooled = torch.relu(torch.stack([x.T[choice].amax(0) for choice in choices]))
    best = (signs(3000, n) @ pooled.T).abs().amax(1) / n
    bound = l1_rademacher(1.0, largest_coordinate_norm(x), d, n, depth=2, maxima=(window,))
    assert float(best.mean()) < bound
    assert bound > window * l1_rademacher(1.0, largest_coordinate_norm(x), d, n, depth=2)
    extra = log_classes(6, 2, maxima=(3,)) - log_classes(6, 2)
    assert extra == pytest.approx(2 * math.log(1.5))


def test_biases_past_tanh_cost_a_third_branch() -> None:
    """Units of two families, tanh and the constant: no member, the constant among them, beats the complexity."""
    n, d, depth = 30, 4, 3
    x = torch.cat([drawn(n, d - 1), torch.ones(n, 1, dtype=torch.float64)], 1)
    generator = torch.Generator().manual_seed(4)
    members = [torch.ones(1, n, dtype=torch.float64)]
    for _ in range(300):
        h = x
        for _layer in range(depth - 1):
            w = torch.randn(10, h.shape[1], generator=generator, dtype=torch.float64)
            w = torch.where(w.abs() >= w.abs().amax(1, keepdim=True), w, 0 * w)
            units = torch.tanh(h @ (w / w.abs().sum(1, keepdim=True)).T)
            h = torch.cat([units, torch.ones(n, 1, dtype=torch.float64)], 1)
        members.append(h.T)
    best = (signs(2000, n) @ torch.cat(members).T).abs().amax(1) / n
    norm = largest_coordinate_norm(x)
    bounds = [l1_rademacher(1.0, norm, d, n, depth, branches=branches) for branches in (2, 3)]
    assert float(best.mean()) < bounds[1]
    extra = log_classes(d, depth, branches=3) - log_classes(d, depth)
    assert extra == pytest.approx(2 * math.log(1.5))
    assert bounds[0] < bounds[1]


def test_the_two_layer_formula_and_its_improvement() -> None:
    found = two_layer_rademacher(5.0, 2.0, dimensions=30, n=900, largest_input=0.5)
    assert found == pytest.approx(2 * 5 * 2 * 0.5 * math.sqrt(2 * math.log(60) / 900), rel=1e-12)
    sharper = l1_rademacher(10.0, 0.5 * 30, 30, 900, depth=2)
    assert sharper == pytest.approx(found / 2 * math.sqrt(math.log(120) / math.log(60)), rel=1e-12)


def test_coordinate_norms() -> None:
    x = torch.tensor([[0.1, -0.3], [0.2, 0.4]])
    assert largest_coordinate_norm(x) == pytest.approx(0.5)
    assert largest_coordinate_norm(x, constant=True) == pytest.approx(math.sqrt(2))
    with pytest.raises(NumericalError, match="finite"):
        largest_coordinate_norm(torch.tensor([[math.inf]]))
    with pytest.raises(SettingError, match="inputs"):
        largest_coordinate_norm(torch.zeros(0, 3))


def test_the_margin_bound_is_its_parts() -> None:
    values = torch.linspace(-1, 9, 4000, dtype=torch.float64)
    bound = l1_margin_bound(values, 2.0, 20.0, 10, 2, 4, theta=1.0, delta=0.1)
    assert bound.empirical == pytest.approx(float(ramp_loss(values, 1.0).mean()), rel=1e-9)
    reach = l1_rademacher(2.0, 20.0, 10, 4000, 2, 4)
    assert 4 * reach <= bound.complexity <= 4 * reach * math.exp(0.05) * (1 + 1e-9)
    assert bound.deviation > 3 * math.sqrt(math.log(2 / 0.1) / 8000)
    best = l1_margin_bound(values, 2.0, 20.0, 10, 2, 4, delta=0.1)
    assert best.value <= min(
        l1_margin_bound(values, 2.0, 20.0, 10, 2, 4, theta=t, delta=0.1).value for t in margin_choices(values)
    )


def test_the_margin_bound_holds_for_a_share_1_minus_delta_of_samples() -> None:
    """Random labels and the best of 2^8 sign patterns on 8 coordinates: every empirical error is below the true one."""
    generator, n, delta, failures, d = torch.Generator().manual_seed(4), 200_000, 0.5, 0, 8
    for _ in range(20):
        x = torch.randint(d, (n,), generator=generator)
        y = 2.0 * torch.randint(2, (n,), generator=generator) - 1
        weights = torch.zeros(d).index_add(0, x, y).sign()  # logits (w x, -w x), so sum |w| = 2 d over both
        norm, coordinate = 2.0 * d, math.sqrt(float(x.bincount().max()))
        bound = l1_margin_bound(2 * weights[x] * y, norm, coordinate, d, 1, 2, theta=2.0, delta=delta)
        assert bound.empirical < 0.5
        failures += bound.value < 0.5
        assert bound.value < 1
    assert failures <= delta * 20


def test_it_can_be_informative_and_can_be_infinite() -> None:
    good = l1_margin_bound(torch.full((10**6,), 4.0), 4.0, 1000.0, 20, 2, 2)
    assert 0.02 < good.value < 0.2
    assert not good.vacuous
    assert l1_margin_bound(torch.ones(10), math.inf, 1.0, 2, 2, 2).value == math.inf
    assert l1_margin_bound(torch.full((50,), -1.0), 1.0, 1.0, 2, 2, 2).empirical == 1.0


def test_mistakes() -> None:
    layer = DenseLayer(torch.ones(2, 2))
    with pytest.raises(SettingError, match="at least one layer"):
        weight_size([])
    with pytest.raises(SettingError, match="one Lipschitz constant"):
        weight_size([layer], lipschitz=[1.0, 1.0])
    with pytest.raises(SettingError, match=r"margins \(n,\)"):
        l1_margin_bound(torch.ones(0), 1.0, 1.0, 1, 1, 1)
    with pytest.raises(NumericalError, match="NaN"):
        l1_margin_bound(torch.tensor([math.nan]), 1.0, 1.0, 1, 1, 1)
    with pytest.raises(SettingError, match="delta"):
        l1_margin_bound(torch.ones(3), 1.0, 1.0, 1, 1, 1, delta=1.0)
    with pytest.raises(SettingError, match="norm"):
        l1_rademacher(-1.0, 1.0, 1, 1, 1)
    with pytest.raises(SettingError, match="n must be a whole number"):
        l1_rademacher(1.0, 1.0, 1, 0, 1)
    with pytest.raises(SettingError, match="theta must be positive"):
        l1_margin_bound(torch.ones(3), 1.0, 1.0, 1, 1, 1, theta=0.0)
