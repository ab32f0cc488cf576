"""Spectral complexity against its formula on dense matrices, and its invariances."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from torchstone.bounds.convolution import ConvolutionLayer
from torchstone.bounds.dense import DenseLayer
from torchstone.bounds.spectral import spectral_complexity
from torchstone.errors import NumericalError, SettingError


def dense(*widths: int, seed: int = 0, bias: bool = False) -> list[DenseLayer]:
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    return [DenseLayer(draw(b, a), draw(b) if bias else None) for a, b in pairwise(widths)]


def by_formula(matrices: list[Tensor], references: list[Tensor], lipschitz: list[float]) -> float:
    """The definition, term by term."""
    product, correction = 1.0, 0.0
    for a, m, rho in zip(matrices, references, lipschitz, strict=True):
        norm = float(torch.linalg.svdvals(a)[0])
        product *= rho * norm
        correction += (sum(float(row.norm()) for row in a - m) / norm) ** (2 / 3)
    return product * correction**1.5


def test_complexity_is_its_formula() -> None:
    layers, starts = dense(6, 9, 8, 4), dense(6, 9, 8, 4, seed=1)
    matrices = [layer.weight for layer in layers]
    rhos = [1.0, 0.5, 1.2]
    zeros = [torch.zeros_like(m) for m in matrices]
    assert spectral_complexity(layers, lipschitz=rhos).value == pytest.approx(
        by_formula(matrices, zeros, rhos), rel=1e-12
    )
    found = spectral_complexity(layers, starts, rhos)
    assert found.value == pytest.approx(by_formula(matrices, [s.weight for s in starts], rhos), rel=1e-12)
    norms = [float(torch.linalg.svdvals(m)[0]) for m in matrices]
    assert found.log_lipschitz_product == pytest.approx(
        math.log(math.prod(norms) * math.prod(rhos)), rel=1e-12
    )
    assert found.width == 9
    mixed = spectral_complexity(layers, [None, layers[1].identity(), starts[2]], rhos)
    eye = torch.eye(8, 9, dtype=torch.float64)
    assert mixed.value == pytest.approx(
        by_formula(matrices, [zeros[0], eye, starts[2].weight], rhos), rel=1e-12
    )


def test_zero_references_make_it_invariant_to_rescaling() -> None:
    layers = dense(6, 9, 8, 4)
    base = spectral_complexity(layers).value
    for c in (1e-6, 3.7, 1e8):
        scaled = [DenseLayer(layers[0].weight * c), layers[1], DenseLayer(layers[2].weight / c)]
        assert abs(spectral_complexity(scaled).value / base - 1) < 1e-9
        # With other references it is not: the distance moved is in absolute units.
        moved = spectral_complexity(scaled, dense(6, 9, 8, 4, seed=1)).value
        assert abs(moved / spectral_complexity(layers, dense(6, 9, 8, 4, seed=1)).value - 1) > 1e-3


def test_one_linear_layer_has_its_two_one_norm() -> None:
    (layer,) = dense(7, 5)
    assert spectral_complexity([layer]).value == pytest.approx(
        float(layer.weight.norm(dim=1).sum()), rel=1e-14
    )
    # The convention matters: the sum runs over output units, not over inputs.
    assert layer.two_one_norm() != pytest.approx(float(layer.weight.norm(dim=0).sum()), rel=1e-3)


def test_convolutions_count_as_their_unrolled_matrices() -> None:
    generator = torch.Generator().manual_seed(2)
    kernel = torch.randn(3, 2, 3, 3, generator=generator, dtype=torch.float64)
    convolution = ConvolutionLayer(kernel, (6, 6), padding=((1, 1), (1, 1)), circular=True)
    (head,) = dense(108, 4)
    basis = torch.eye(72, dtype=torch.float64).view(72, 2, 6, 6)
    matrix = convolution.linear(basis).flatten(1).T
    found = spectral_complexity([convolution, head])
    expected = spectral_complexity([DenseLayer(matrix), head])
    assert found.value == pytest.approx(expected.value, rel=1e-12)
    assert found.width == expected.width == 108
    zero_padded = ConvolutionLayer(kernel, (6, 6), padding=((1, 1), (1, 1)))
    matrix = zero_padded.linear(basis).flatten(1).T
    assert (
        spectral_complexity([zero_padded, head]).value
        >= spectral_complexity([DenseLayer(matrix), head]).value
    )


def test_biases_are_carried_by_a_constant_unit() -> None:
    layers = dense(5, 6, 4, bias=True)
    found = spectral_complexity(layers, lipschitz=0.5)
    assert found.augmented
    assert found.width == 7
    assert found.lipschitz == (1.0, 1.0)
    biases = [layer.bias for layer in layers if layer.bias is not None]
    first = torch.zeros(7, 6, dtype=torch.float64)
    first[:6, :5], first[:6, 5], first[6, 5] = layers[0].weight, biases[0], 1.0
    last = torch.cat([layers[1].weight, biases[1][:, None]], dim=1)
    for bound, matrix in zip(found.operator_norms, (first, last), strict=True):
        truth = float(torch.linalg.matrix_norm(matrix, 2))
        assert truth <= bound * (1 + 1e-12)
        assert bound < 1.5 * truth
    carried = torch.zeros_like(first)
    carried[6, 5] = 1.0
    assert found.two_one_norms[0] == pytest.approx(float((first - carried).norm(dim=1).sum()), rel=1e-12)
    assert found.two_one_norms[1] == pytest.approx(float(last.norm(dim=1).sum()), rel=1e-12)
    # A bias of zero is still a constant unit of norm 1, so contractions count as 1.
    shrinking = [DenseLayer(0.1 * torch.eye(2), torch.zeros(2)), DenseLayer(torch.eye(2))]
    assert spectral_complexity(shrinking).operator_norms == pytest.approx((1.0, 1.0), rel=1e-7)


def test_a_bias_aligned_with_the_top_direction_attains_the_block_bound() -> None:
    layer = DenseLayer(torch.tensor([[3.0]], dtype=torch.float64), torch.tensor([4.0], dtype=torch.float64))
    found = spectral_complexity([layer, DenseLayer(torch.ones(1, 1, dtype=torch.float64))])
    exact = torch.linalg.matrix_norm(torch.tensor([[3.0, 4.0], [0.0, 1.0]], dtype=torch.float64), 2)
    assert found.operator_norms[0] == pytest.approx(float(exact), rel=1e-12)


def test_huge_weights_and_biases_keep_their_logarithm() -> None:
    one, eye = torch.ones(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    layer = DenseLayer(1e140 * eye, 1e140 * one)
    found = spectral_complexity([layer, layer])
    # [[s, b], [0, 1]] with |b| = sqrt 2 s, and [s, b] for the last layer: both of norm sqrt 3 s.
    assert found.operator_norms == pytest.approx((math.sqrt(3) * 1e140,) * 2, rel=1e-12)
    assert math.isfinite(found.log_value)
    with pytest.raises(NumericalError, match="inside the range of float64"):
        spectral_complexity([DenseLayer(1e160 * eye)])


def test_untrained_deep_and_dead_networks() -> None:
    layers = dense(6, 9, 4)
    assert spectral_complexity(layers, layers).value == 0.0
    deep = spectral_complexity([DenseLayer(1e10 * torch.eye(2, dtype=torch.float64))] * 60)
    assert deep.value == math.inf
    expected = 60 * math.log(1e10) + math.log(2) + 1.5 * math.log(60)
    assert deep.log_value == pytest.approx(expected, rel=1e-12)
    dead = [layers[0], DenseLayer(torch.zeros(4, 9))]
    assert spectral_complexity(dead).value == 0.0
    # Its reference apart, a dead layer still contributes what it moved times the gain of the others.
    moved = spectral_complexity(dead, [None, layers[1]])
    gain = float(torch.linalg.matrix_norm(layers[0].weight, 2))
    assert moved.value == pytest.approx(layers[1].two_one_norm() * gain, rel=1e-12)


def test_bad_inputs_are_refused() -> None:
    layers = dense(6, 9, 4)
    with pytest.raises(SettingError, match="at least one layer"):
        spectral_complexity([])
    with pytest.raises(SettingError, match="2 layers, 1 references"):
        spectral_complexity(layers, [None])
    with pytest.raises(SettingError, match="must be positive"):
        spectral_complexity(layers, lipschitz=0.0)
    with pytest.raises(SettingError, match="its layer's kind"):
        spectral_complexity(layers, [ConvolutionLayer(torch.ones(1, 1, 1), (3,)), None])
