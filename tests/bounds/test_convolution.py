"""Every norm of a convolution against its unrolled matrix."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone.bounds.convolution import ConvolutionLayer, convolution_norm
from torchstone.bounds.dense import DenseLayer
from torchstone.errors import NumericalError, SettingError

ONE = ((1, 1), (1, 1))
ZERO_PADDED = {
    "same": ((4, 3, 3, 3), (8, 7), {"padding": ONE}),
    "coarse frequencies": ((2, 3, 3, 3), (26, 24), {"padding": ONE}),
    "valid": ((4, 3, 3, 2), (6, 7), {}),
    "strided": ((4, 3, 3, 3), (9, 8), {"padding": ONE, "stride": (2, 2)}),
    "strided and dilated": (
        (4, 3, 5, 3),
        (9, 11),
        {"padding": ((2, 1), (0, 1)), "stride": (2, 3), "dilation": (1, 2)},
    ),
    "grouped": ((4, 2, 3, 3), (8, 8), {"padding": ONE, "stride": (1, 2), "groups": 2}),
    "depthwise": ((3, 1, 3, 3), (8, 8), {"padding": ONE, "groups": 3}),
    "long signal": ((3, 2, 7), (200,), {"padding": ((3, 3),)}),
    "volume": ((2, 2, 2, 2, 3), (4, 4, 5), {"padding": ((1, 1), (1, 0), (1, 1)), "stride": (1, 2, 1)}),
    "stride above kernel": ((4, 3, 1, 1), (6, 6), {"stride": (2, 2)}),
}
CIRCULAR = {
    "same": ((4, 3, 3, 3), (8, 7), {"padding": ONE}),
    "strided": ((4, 3, 3, 3), (8, 6), {"padding": ONE, "stride": (2, 2)}),
    "dilated, grouped": (
        (4, 2, 3, 3),
        (8, 6),
        {"padding": ((2, 2), (1, 1)), "dilation": (2, 1), "groups": 2},
    ),
    "signal": ((5, 2, 5), (9,), {"padding": ((2, 2),)}),
}


def layer(case: tuple, seed: int = 0, **more: Any) -> ConvolutionLayer:
    shape, size, settings = case
    kernel = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return ConvolutionLayer(kernel, size, **settings, **more)


def unrolled(convolution: ConvolutionLayer) -> Tensor:
    inputs = convolution.dimensions[1]
    basis = torch.eye(inputs, dtype=torch.float64).view(inputs, *convolution.input_shape)
    return convolution.linear(basis).flatten(1).T


@pytest.mark.parametrize("name", CIRCULAR)
def test_circular_norm_is_exact(name: str) -> None:
    convolution = layer(CIRCULAR[name], circular=True)
    truth = float(torch.linalg.matrix_norm(unrolled(convolution), 2))
    assert convolution.norm_bound() == pytest.approx(truth, rel=1e-12)
    bracket = convolution_norm(convolution, torch.Generator().manual_seed(1))
    assert bracket.low == bracket.high == convolution.norm_bound()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ZERO_PADDED)
def test_zero_padded_norm_lies_in_its_bracket(name: str, seed: int) -> None:
    convolution = layer(ZERO_PADDED[name], seed)
    truth = float(torch.linalg.matrix_norm(unrolled(convolution), 2))
    bracket = convolution_norm(convolution, torch.Generator().manual_seed(1), steps=200)
    assert bracket.low <= truth * (1 + 1e-12)
    assert truth <= bracket.high * (1 + 1e-12)
    assert bracket.low == pytest.approx(truth, rel=1e-6)


def test_upper_end_holds_where_it_is_nearly_attained() -> None:
    # A positive kernel on a large grid approaches its frequency-zero gain, where the coarse grid must not fall short.
    convolution = layer(((1, 1, 3), (400,), {"padding": ((1, 1),)}))
    smooth = ConvolutionLayer(torch.ones(1, 1, 3, dtype=torch.float64), (400,), padding=((1, 1),))
    for each in (convolution, smooth):
        truth = float(torch.linalg.matrix_norm(unrolled(each), 2))
        assert truth <= each.norm_bound() <= 1.011 * truth


@pytest.mark.parametrize("seed", range(20))
def test_coarse_grid_bounds_peaks_between_its_frequencies(seed: int) -> None:
    # Long kernels have narrow peaks; a grid of 22 n frequencies misses them by less than the factor it adds.
    kernel = torch.randn(2, 2, 9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    phases = torch.linspace(0, 2 * math.pi, 20_001, dtype=torch.float64)[:, None] * torch.arange(9)
    transfer = torch.einsum(
        "ft,oit->foi", torch.polar(torch.ones_like(phases), -phases), kernel.to(torch.complex128)
    )
    supremum = float(torch.linalg.matrix_norm(transfer, 2).max())
    bound = ConvolutionLayer(kernel, (5000,), padding=((4, 4),)).norm_bound()
    assert supremum * (1 - 1e-6) <= bound <= 1.011 * supremum


@pytest.mark.parametrize("name", ZERO_PADDED)
def test_two_one_norm_is_that_of_the_unrolled_matrix(name: str) -> None:
    convolution, reference = layer(ZERO_PADDED[name]), layer(ZERO_PADDED[name], seed=7)
    matrix, start = unrolled(convolution), unrolled(reference)
    assert convolution.dimensions == tuple(matrix.shape)
    assert convolution.two_one_norm() == pytest.approx(float(matrix.norm(dim=1).sum()), rel=1e-12)
    assert convolution.two_one_norm(reference) == pytest.approx(
        float((matrix - start).norm(dim=1).sum()), rel=1e-12
    )
    dense = DenseLayer(matrix)
    assert dense.two_one_norm(DenseLayer(start)) == pytest.approx(
        convolution.two_one_norm(reference), rel=1e-12
    )


@pytest.mark.parametrize("name", CIRCULAR)
def test_two_one_norm_of_circular_convolutions(name: str) -> None:
    convolution = layer(CIRCULAR[name], circular=True)
    assert convolution.two_one_norm() == pytest.approx(
        float(unrolled(convolution).norm(dim=1).sum()), rel=1e-12
    )


def test_bias_is_one_more_incoming_weight() -> None:
    bias = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    convolution = layer(ZERO_PADDED["strided"], bias=bias)
    spread = bias.repeat_interleave(math.prod(convolution.output_size))
    matrix = torch.cat([unrolled(convolution), spread[:, None]], dim=1)
    assert convolution.two_one_norm() == pytest.approx(float(matrix.norm(dim=1).sum()), rel=1e-12)
    assert convolution.bias_norm() == pytest.approx(float(spread.norm()), rel=1e-12)


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv1d(2, 3, 4, padding="same", dilation=2),
        nn.Conv2d(4, 4, (3, 5), stride=(2, 1), padding=(1, 2), groups=2),
        nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular", bias=False),
        nn.Conv3d(1, 2, 2),
    ],
)
def test_layer_of_a_module_is_its_linear_part(module: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> None:
    size = (9, 8, 7)[: module.weight.ndim - 2]
    convolution = ConvolutionLayer.of(module, size)
    x = torch.randn(
        2, module.in_channels, *size, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    zero = torch.zeros_like(x)
    module = module.double()
    expected = module(x) - module(zero)
    assert convolution.output_size == tuple(expected.shape[2:])
    assert torch.allclose(convolution.linear(x), expected, atol=1e-6)


def test_identity_kernel_is_the_identity() -> None:
    convolution = layer(((4, 2, 3, 3), (5, 6), {"padding": ONE, "groups": 2}))
    assert torch.equal(unrolled(convolution.identity()), torch.eye(120, dtype=torch.float64))
    assert convolution.identity().norm_bound() == pytest.approx(1.0, rel=1e-12)
    assert torch.equal(DenseLayer(torch.zeros(2, 3)).identity().weight, torch.eye(2, 3, dtype=torch.float64))


def test_zero_kernel_has_norm_zero() -> None:
    convolution = ConvolutionLayer(torch.zeros(2, 2, 3, 3), (4, 4), padding=ONE)
    bracket = convolution_norm(convolution, torch.Generator().manual_seed(3))
    assert bracket.low == bracket.high == convolution.two_one_norm() == 0.0


def test_cost_does_not_grow_with_the_image() -> None:
    convolution = layer(((8, 8, 3, 3), (4096, 4096), {"padding": ONE}))
    small = layer(((8, 8, 3, 3), (64, 64), {"padding": ONE}))
    assert convolution.norm_bound() == pytest.approx(small.norm_bound(), rel=1e-12)


def test_bad_layers_are_refused() -> None:
    kernel = torch.ones(2, 2, 3, 3)
    with pytest.raises(SettingError, match="ConvolutionLayer needs a kernel"):
        ConvolutionLayer(kernel, (5,))
    with pytest.raises(SettingError, match="fit into the padded input"):
        ConvolutionLayer(kernel, (2, 5))
    with pytest.raises(SettingError, match="circular convolution must map"):
        ConvolutionLayer(kernel, (5, 5), circular=True)
    with pytest.raises(SettingError, match="circular convolution must map"):
        ConvolutionLayer(torch.ones(1, 1, 5), (3,), padding=((2, 2),), circular=True)
    with pytest.raises(SettingError, match="zero and circular padding"):
        ConvolutionLayer.of(nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), (5, 5))
    with pytest.raises(SettingError, match="bias must have shape"):
        ConvolutionLayer(kernel, (5, 5), bias=torch.ones(3))
    with pytest.raises(NumericalError, match="Weights must be finite"):
        DenseLayer(torch.tensor([[math.nan]]))
    with pytest.raises(SettingError, match="reference must have the layer's weight shape"):
        DenseLayer(torch.ones(2, 3)).two_one_norm(DenseLayer(torch.ones(3, 2)))
    with pytest.raises(SettingError, match="weight \\(out, in\\)"):
        DenseLayer(torch.ones(3))
