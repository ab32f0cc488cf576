"""One formula, four normalisations; spectral norms of convolutions; whitening."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from torchstone.errors import SettingError
from torchstone.layers.normalisation import (
    Deconv2d,
    batch_blocks,
    circular_singular_values,
    exact_spectral_norm,
    group_blocks,
    instance_blocks,
    inverse_root,
    layer_blocks,
    partition_normalise,
    reshaped_norm,
    window_normalise,
)
from torchstone.layers.normalisation.partition import block_sizes

F64 = torch.float64
SHAPE = (6, 8, 5, 4)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


CASES = {
    "batch": (batch_blocks(SHAPE), lambda x: functional.batch_norm(x, None, None, training=True)),
    "layer": (layer_blocks(SHAPE), lambda x: functional.layer_norm(x, x.shape[1:])),
    "instance": (instance_blocks(SHAPE), functional.instance_norm),
    "group": (group_blocks(SHAPE, 4), lambda x: functional.group_norm(x, 4)),
    "group of one": (group_blocks(SHAPE, 1), lambda x: functional.layer_norm(x, x.shape[1:])),
    "group of each": (group_blocks(SHAPE, 8), functional.instance_norm),
}


@pytest.mark.parametrize("name", CASES)
def test_partitions_are_the_normalisations_of_torch(name: str) -> None:
    blocks, reference = CASES[name]
    x = (2 + 3 * draw(*SHAPE)).requires_grad_(True)
    found, expected = partition_normalise(x, blocks), reference(x)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    u = draw(*SHAPE, seed=1)
    gradients = [torch.autograd.grad(y, x, u)[0] for y in (found, expected)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-6, atol=1e-6)


def test_an_arbitrary_partition_normalises_every_block() -> None:
    x = 5 + 2 * draw(7, 9)
    blocks = torch.randint(-3, 4, (7, 9), generator=torch.Generator().manual_seed(1))
    y = partition_normalise(x, blocks, eps=0.0)
    for block in blocks.unique():
        part = y[blocks == block]
        assert float(part.mean()) == pytest.approx(0, abs=1e-10)
        assert float(part.std(unbiased=False)) == pytest.approx(1, abs=1e-5)
    assert block_sizes(batch_blocks(SHAPE), SHAPE).tolist() == [6 * 5 * 4] * 8


def test_layer_normalisation_ignores_scale_shift_and_neighbours() -> None:
    x = draw(4, 10)
    for blocks in (layer_blocks((4, 10)),):
        y = partition_normalise(x, blocks, eps=0.0)
        torch.testing.assert_close(partition_normalise(3 * x + 7, blocks, eps=0.0), y, rtol=1e-6, atol=1e-6)
        alone = partition_normalise(x[:1], layer_blocks((1, 10)), eps=0.0)
        assert torch.equal(alone, y[:1])


def test_windows_look_at_neighbouring_channels_only() -> None:
    x = draw(2, 9, 3)
    y = window_normalise(x, 3, eps=0.0)
    around = x[:, 3:6]
    mean = around.mean(1)
    assert y.shape == x.shape
    changed = x.clone()
    changed[:, 8] += 1
    torch.testing.assert_close(window_normalise(changed, 3, eps=0.0)[:, :6], y[:, :6])
    torch.testing.assert_close((window_normalise(x, 1, eps=1.0)), torch.zeros_like(x))
    assert mean.shape == (2, 3)


def test_what_cannot_be_normalised_is_refused() -> None:
    x, blocks = draw(2, 3), layer_blocks((2, 3))
    with pytest.raises(SettingError, match=r"takes floating-point numbers and eps >= 0; got torch\.int64"):
        partition_normalise(x.long(), blocks)
    with pytest.raises(SettingError, match="eps=-1"):
        window_normalise(x, 3, eps=-1.0)
    with pytest.raises(SettingError, match="a tensor of whole numbers; got list"):
        partition_normalise(x, [0, 1])  # pyright: ignore[reportArgumentType]
    for call in (batch_blocks, instance_blocks, lambda shape: group_blocks(shape, 1)):
        with pytest.raises(SettingError, match="Channels are the second axis"):
            call((3,))


def test_wrong_partitions_are_refused() -> None:
    with pytest.raises(SettingError, match="whole numbers"):
        partition_normalise(draw(2, 3), torch.ones(2, 3))
    with pytest.raises(SettingError, match="must broadcast"):
        partition_normalise(draw(2, 3), torch.ones(4, dtype=torch.long))
    with pytest.raises(SettingError, match="3 groups of 8 channels"):
        group_blocks(SHAPE, 3)
    with pytest.raises(SettingError, match="window must be an odd number"):
        window_normalise(draw(2, 3), 2)


def circular_matrix(kernel: Tensor, size: tuple[int, ...]) -> Tensor:
    inputs = kernel.shape[1] * int(torch.tensor(size).prod())
    eye = torch.eye(inputs, dtype=F64).view(inputs, kernel.shape[1], *size)
    around = [p for k in reversed(kernel.shape[2:]) for p in ((k - 1) // 2, k // 2)]
    convolve = functional.conv1d if len(size) == 1 else functional.conv2d
    return convolve(functional.pad(eye, around, mode="circular"), kernel).flatten(1).T


@pytest.mark.parametrize(
    ("kernel", "size"), [((4, 3, 3), (7,)), ((3, 5, 3, 3), (5, 6)), ((4, 4, 2, 3), (4, 5))]
)
def test_singular_values_by_fourier_are_those_of_the_dense_matrix(
    kernel: tuple[int, ...], size: tuple[int, ...]
) -> None:
    weight = draw(*kernel)
    found = circular_singular_values(weight, size).flatten().sort().values
    dense = torch.linalg.svdvals(circular_matrix(weight, size)).sort().values
    torch.testing.assert_close(found, dense[-len(found) :], rtol=1e-6, atol=1e-6)
    assert not torch.allclose(reshaped_norm(weight), dense.max(), rtol=1e-2)


@pytest.mark.parametrize("mode", ["circular", "zeros"])
def test_a_normalised_convolution_has_norm_one_and_trains(mode: Literal["circular", "zeros"]) -> None:
    layer = nn.Conv2d(3, 4, 3, padding=1, bias=False, padding_mode=mode, dtype=F64)
    with torch.no_grad():
        layer.weight.copy_(draw(4, 3, 3, 3))
    exact_spectral_norm(layer, (6, 6))
    eye = torch.eye(108, dtype=F64).view(108, 3, 6, 6)
    norm = float(torch.linalg.matrix_norm(layer(eye).flatten(1).detach(), 2))
    assert norm == pytest.approx(1, abs=1e-10) if mode == "circular" else 0.8 < norm <= 1 + 1e-12
    layer(draw(2, 3, 6, 6, seed=1)).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in layer.parameters())


def test_a_bound_leaves_small_kernels_alone() -> None:
    layer = nn.Conv1d(2, 2, 3, padding=1, padding_mode="circular", dtype=F64)
    with torch.no_grad():
        layer.weight.mul_(1e-3)
    before = layer.weight.detach().clone()
    exact_spectral_norm(layer, (9,), bound=True)
    torch.testing.assert_close(layer.weight, before)


def test_power_iteration_of_torch_reaches_the_norm_of_a_matrix() -> None:
    layer = nn.utils.parametrizations.spectral_norm(nn.Linear(8, 6, dtype=F64))
    for _ in range(50):
        layer(draw(1, 8))
    weight = layer.eval().weight
    assert isinstance(weight, Tensor)
    assert float(torch.linalg.matrix_norm(weight.detach(), 2)) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("mode", ["zeros", "circular"])
@pytest.mark.parametrize("padding", [0, 1, 2, "same", "valid"])
@pytest.mark.parametrize("stride", [1, 2])
def test_no_padding_or_stride_exceeds_the_norm(
    mode: Literal["circular", "zeros"], padding: int | str, stride: int
) -> None:
    """Against the dense matrix; circular padding by more cells than the kernel needs would, and is refused."""
    if padding == "same" and stride == 2:
        pytest.skip("torch has no such convolution")
    layer = nn.Conv1d(3, 4, 3, stride, padding, padding_mode=mode, bias=False, dtype=F64)
    with torch.no_grad():
        layer.weight.copy_(draw(4, 3, 3))
    if mode == "circular" and padding == 2:
        with pytest.raises(SettingError, match="Circular padding may be k - 1 cells in all"):
            exact_spectral_norm(layer, (9,))
        return
    exact_spectral_norm(layer, (9,))
    units = torch.eye(27, dtype=F64).view(27, 3, 9)
    assert 0.1 < float(torch.linalg.matrix_norm(layer(units).detach().flatten(1), 2)) <= 1 + 1e-12


def test_a_kernel_of_zeros_stays_one_and_bfloat16_works() -> None:
    for kind in (torch.float32, torch.bfloat16):
        layer = nn.Conv2d(2, 2, 3, padding=1, dtype=kind)
        nn.init.zeros_(layer.weight)
        exact_spectral_norm(layer, (5, 5))
        assert layer.weight.dtype == kind
        assert not bool(layer.weight.detach().any())


@pytest.mark.parametrize("size", [8, (8,), (8.5, 8), (8, 0)])
def test_sizes_that_are_none_are_refused(size: Any) -> None:
    with pytest.raises(SettingError, match="size needs one whole number a dimension"):
        exact_spectral_norm(nn.Conv2d(2, 2, 3, padding=1), size)
    with pytest.raises(SettingError, match="must not be smaller than the kernel's"):
        exact_spectral_norm(nn.Conv2d(2, 2, 5, padding="same", padding_mode="circular"), (3, 3))
    with pytest.raises(SettingError, match="kernel is"):
        circular_singular_values(torch.ones(2, 2), ())


def test_layers_without_an_exact_norm_are_refused() -> None:
    with pytest.raises(SettingError, match="takes a convolution; got Linear"):
        exact_spectral_norm(nn.Linear(2, 2), (4,))
    with pytest.raises(SettingError, match="groups=2"):
        exact_spectral_norm(nn.Conv1d(4, 4, 3, groups=2), (8,))
    with pytest.raises(SettingError, match="coefficient must be positive"):
        exact_spectral_norm(nn.Conv1d(4, 4, 3), (8,), coefficient=0.0)
    with pytest.raises(SettingError, match="must not be smaller than the kernel's"):
        circular_singular_values(draw(2, 2, 5), (3,))


def correlated_images(count: int = 200) -> Tensor:
    noise = draw(count, 3, 14, 14)
    mixed = torch.einsum(
        "cd,ndhw->nchw", torch.tensor([[1.0, 0.5, 0], [0, 1, 0.5], [0.3, 0, 1]], dtype=F64), noise
    )
    return functional.avg_pool2d(mixed, 2, 1) * 3 + 1


def test_the_inverse_root_is_one() -> None:
    factor = draw(20, 8)
    covariance = factor.T @ factor / 20
    root = inverse_root(covariance, iterations=25, eps=0.0)
    torch.testing.assert_close(root @ covariance @ root, torch.eye(8, dtype=F64), rtol=0, atol=1e-6)


@pytest.mark.parametrize("block", [64, 1])
def test_patches_come_out_white(block: int) -> None:
    layer = Deconv2d(3, 4, 3, block=block, iterations=25, eps=1e-9, dtype=F64).double()
    patches = layer.whitened(correlated_images()).detach()
    for one in patches:
        covariance = torch.cov(one.T, correction=0)
        torch.testing.assert_close(covariance, torch.eye(len(covariance), dtype=F64), rtol=0, atol=1e-3)
    assert len(patches) == (1 if block == 64 else 3)


def test_the_folded_kernel_is_whitening_and_then_convolving() -> None:
    layer = Deconv2d(3, 4, 3, stride=2, padding=1, iterations=15, sampling=1).double()
    x = correlated_images(20)
    white = layer.whitened(x)[0]
    expected = white @ layer.weight.flatten(1).T
    assert layer.bias is not None
    found = layer(x)
    # Zero padding is whitened like any patch in the reference, and convolved with the folded kernel in the layer.
    torch.testing.assert_close(
        found.permute(0, 2, 3, 1).reshape(-1, 4), expected + layer.bias, rtol=1e-8, atol=1e-8
    )
    for _ in range(100):
        layer(x)
    torch.testing.assert_close(layer.eval()(x), found, rtol=1e-3, atol=1e-3)


def test_deconvolution_removes_the_spike_that_slows_gradient_descent() -> None:
    x = correlated_images(100)
    columns = functional.unfold(x, 3).transpose(1, 2).flatten(0, 1)
    condition = lambda rows: float(torch.linalg.cond(rows.T @ rows))
    white = Deconv2d(3, 4, 3, iterations=20).double().whitened(x)[0].detach()
    assert condition(white) < 0.01 * condition(columns)


@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect", "replicate"])
@pytest.mark.parametrize(("kernel", "padding"), [(3, 1), (2, (1, 0)), (3, "same")])
def test_outputs_are_white_whatever_the_padding(mode: str, kernel: int, padding: Any) -> None:
    """With the kernel of one unit matrix the outputs are whitened patches: mean 0, covariance I."""
    layer = Deconv2d(
        3, 4, kernel, padding=padding, padding_mode=mode, iterations=25, sampling=1, bias=False
    ).double()
    with torch.no_grad():
        layer.weight.zero_().view(4, -1)[:, :4] = torch.eye(4)
    x = 2 + nn.functional.avg_pool2d(draw(16, 3, 10, 10), 3, 1)
    rows = layer(x).detach().movedim(1, -1).reshape(-1, 4)
    torch.testing.assert_close(rows.mean(0), torch.zeros(4, dtype=F64), atol=1e-10, rtol=0)
    torch.testing.assert_close(rows.T.cov(correction=0), torch.eye(4, dtype=F64), atol=5e-3, rtol=0)


def test_an_empty_batch_leaves_the_statistics_alone() -> None:
    layer = Deconv2d(3, 4, 3)
    assert layer(torch.zeros(0, 3, 5, 5)).shape == (0, 4, 3, 3)
    assert bool(layer.running_whitening.isfinite().all())


def test_wrong_deconvolutions_are_refused() -> None:
    with pytest.raises(SettingError, match="has one group"):
        Deconv2d(4, 4, 3, groups=2)
    with pytest.raises(SettingError, match="iterations must be a whole number"):
        Deconv2d(4, 4, 3, iterations=0)
    with pytest.raises(SettingError, match="momentum=2"):
        Deconv2d(4, 4, 3, momentum=2.0)
    for shape in ((4, 5, 5), (2, 3, 5, 5)):
        with pytest.raises(SettingError, match=r"takes \(N, 4, H, W\)"):
            Deconv2d(4, 4, 3)(torch.zeros(shape))
