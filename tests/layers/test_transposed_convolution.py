"""Transposed convolution: the adjoint of convolution, and how often each output is written."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from torchstone.errors import SettingError
from torchstone.layers.overlap import overlap_counts

F64 = torch.float64
SETTINGS = [
    case
    for case in itertools.product((1, 2, 3), (0, 1, 2), (1, 2), (1, 2, 3, 4))
    if case[1] <= case[2] * (case[3] - 1)  # padding beyond the kernel's reach is not transposable
]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2])
def test_it_is_the_adjoint_for_every_stride_padding_and_dilation(dimensions: int, groups: int) -> None:
    convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[dimensions - 1]
    transpose = (
        functional.conv_transpose1d,
        functional.conv_transpose2d,
        functional.conv_transpose3d,
    )[dimensions - 1]
    size = (9, 9, 8)[dimensions - 1]
    for stride, padding, dilation, kernel in SETTINGS:
        if size + 2 * padding < dilation * (kernel - 1) + 1:
            continue
        x = draw(2, 4, *[size] * dimensions)
        weight = draw(6, 4 // groups, *[kernel] * dimensions, seed=1)
        forward = convolve(x, weight, None, stride, padding, dilation, groups)
        y = draw(*forward.shape, seed=2)
        # Where the stride does not divide, several inputs give one output size: the rest says which is meant.
        rest = (size + 2 * padding - dilation * (kernel - 1) - 1) % stride
        back = transpose(y, weight, None, stride, padding, rest, groups, dilation)
        assert back.shape == x.shape
        left, right = float((forward * y).sum()), float((x * back).sum())
        assert left == pytest.approx(right, rel=1e-10, abs=1e-10)


@pytest.mark.parametrize(("stride", "padding", "dilation", "kernel"), SETTINGS)
def test_overlaps_are_those_of_a_kernel_of_ones(
    stride: int, padding: int, dilation: int, kernel: int
) -> None:
    count = 7
    if (count - 1) * stride - 2 * padding + dilation * (kernel - 1) + 1 < 1:
        pytest.skip("no output")
    ones = torch.ones(1, 1, count, dtype=F64)
    expected = functional.conv_transpose1d(
        ones, torch.ones(1, 1, kernel, dtype=F64), None, stride, padding, 0, 1, dilation
    )
    found = overlap_counts(count, kernel, stride, padding, dilation)
    assert torch.equal(found.double(), expected[0, 0])


def test_a_kernel_that_the_stride_divides_has_no_checkerboard() -> None:
    inner = overlap_counts(20, 4, 2)[4:-4]
    assert inner.unique().tolist() == [2]
    checkered = overlap_counts(20, 3, 2)[4:-4]
    assert checkered.unique().tolist() == [1, 2]
    assert checkered[:4].tolist() in ([1, 2, 1, 2], [2, 1, 2, 1])


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 2), (5, 3), (4, 2), (7, 3), (2, 3), (9, 4)])
def test_the_closed_formula_away_from_the_borders(kernel: int, stride: int) -> None:
    found = overlap_counts(30, kernel, stride)
    for place in range(kernel, 29 * stride):
        assert int(found[place]) == kernel // stride + (place % stride < kernel % stride)


def test_unpooling_by_switches_is_the_adjoint_of_pooling_and_projects_back_as_gradients_do() -> None:
    # A deconvnet's unpooling and transposed filters are the backward pass; only its treatment of ReLU differs
    # (Zeiler & Fergus 2014, section 2.1; Simonyan, Vedaldi & Zisserman 2014, section 4).
    x, weight = draw(2, 3, 9, 9).requires_grad_(True), draw(5, 3, 2, 2, seed=1)
    maps = functional.conv2d(x, weight)
    pooled, switches = functional.max_pool2d(maps, 2, return_indices=True)
    shown = draw(*pooled.shape, seed=2)
    [gradient] = torch.autograd.grad((pooled * shown).sum(), x)
    unpooled = functional.max_unpool2d(shown, switches, [2, 2], output_size=maps.shape[-2:])
    torch.testing.assert_close(functional.conv_transpose2d(unpooled, weight), gradient, rtol=0, atol=1e-10)


def test_wrong_settings_are_named() -> None:
    for wrong in ((0, 3, 1), (4, 0, 1), (4, 3, 0)):
        with pytest.raises(SettingError, match="at least 1"):
            overlap_counts(*wrong)
    with pytest.raises(SettingError, match="padding must be"):
        overlap_counts(4, 3, 1, -1)
    with pytest.raises(SettingError, match="leaves no output"):
        overlap_counts(1, 3, 1, 2)
