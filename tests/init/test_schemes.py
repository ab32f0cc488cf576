"""Schemes for one layer: moments of the weights, and what they do to norms in the exact expectation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from torchstone.errors import SettingError
from torchstone.init import (
    SCHEMES,
    Scheme,
    delta_orthogonal_,
    draw_weight,
    fans,
    gain,
    standard_deviation,
)

F64 = torch.float64


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


LAYERS = {
    "dense": nn.Linear(300, 200, dtype=F64),
    "convolution": nn.Conv2d(32, 64, 3, dtype=F64),
    "grouped": nn.Conv1d(32, 64, 5, groups=4, dtype=F64),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("scheme", [scheme for scheme in SCHEMES if "orthogonal" not in scheme])
def test_the_sample_deviation_is_the_one_aimed_at(name: str, scheme: Scheme) -> None:
    layer = LAYERS[name]
    weight = draw_weight(layer, scheme, 1.3, generator())
    aim = standard_deviation(layer, scheme, 1.3)
    # The deviation of a sample variance is at most sqrt(2 / n) of it; uniform and truncated have less.
    assert float(weight.var()) == pytest.approx(aim**2, rel=4 * (2 / weight.numel()) ** 0.5)
    assert float(weight.mean()) == pytest.approx(0, abs=4 * aim / weight.numel() ** 0.5)


def test_fans() -> None:
    assert fans(nn.Linear(3, 5)) == (3, 5)
    assert fans(nn.Conv2d(4, 6, (3, 5))) == (60, 90)
    assert fans(nn.Conv2d(4, 6, 3, groups=2)) == (18, 27)
    assert fans(nn.Conv2d(4, 6, 4, stride=2)) == (64, 24)
    assert fans(nn.ConvTranspose2d(4, 6, 4, stride=2)) == (16, 96)


def test_transposed_convolutions_keep_the_variance() -> None:
    layer = nn.ConvTranspose2d(24, 16, 4, stride=2, padding=1, bias=False, dtype=F64)
    x = torch.randn(8, 24, 16, 16, generator=generator(1), dtype=F64)
    with torch.no_grad():
        layer.weight.copy_(draw_weight(layer, "kaiming", 1.0, generator()))
        inside = layer(x)[:, :, 4:-4, 4:-4]
    assert float(inside.var()) == pytest.approx(1, rel=0.1)


def test_xavier_forward_and_backward_ratios_are_exact_in_expectation() -> None:
    """E |Wx|^2 / |x|^2 = 2 n_in... of the output over the input variance: 2 n_in / (n_in + n_out), and backward."""
    layer = nn.Linear(120, 40, bias=False, dtype=F64)
    forward, backward = [], []
    g = generator()
    for _ in range(400):
        weight = draw_weight(layer, "xavier", 1.0, g)
        x, u = torch.randn(120, generator=g, dtype=F64), torch.randn(40, generator=g, dtype=F64)
        forward.append((weight @ x).square().mean() / x.square().mean())
        backward.append((weight.T @ u).square().mean() / u.square().mean())
    for draws, expected in ((forward, 2 * 120 / 160), (backward, 2 * 40 / 160)):
        values = torch.stack(draws)
        assert abs(float(values.mean()) - expected) < 3 * float(values.std()) / len(values) ** 0.5


def norms_through(depth: int, width: int, scheme: Scheme, sigma: float, relu: bool, nets: int) -> Tensor:
    """|h_L|^2 / |x|^2 over many networks."""
    layer, g, found = nn.Linear(width, width, bias=False, dtype=F64), generator(), []
    for _ in range(nets):
        x = torch.randn(width, generator=g, dtype=F64)
        h = x
        for _ in range(depth):
            h = draw_weight(layer, scheme, sigma, g) @ (torch.relu(h) if relu else h)
        found.append(h.square().sum() / x.square().sum())
    return torch.stack(found)


def test_lecun_keeps_the_norm_of_linear_networks() -> None:
    ratios = norms_through(10, 60, "lecun", 1.0, relu=False, nets=300)
    assert abs(float(ratios.mean()) - 1) < 3 * float(ratios.std()) / 300**0.5


def test_kaiming_keeps_the_norm_through_thirty_relu_layers_and_xavier_halves_it() -> None:
    width, depth = 60, 30
    ratios = norms_through(depth, width, "kaiming", gain(torch.relu), relu=True, nets=200)
    assert abs(float(ratios.mean()) - 1) < 3 * float(ratios.std()) / 200**0.5
    # The logarithm spreads: each layer adds about 5 / width to its variance (Hanin & Rolnick 2018).
    assert float(ratios.log().var()) == pytest.approx(5 * depth / width, rel=0.35)
    halved = norms_through(8, width, "xavier", 1.0, relu=True, nets=600) * 2.0**8
    assert abs(float(halved.mean()) - 1) < 3 * float(halved.std()) / 600**0.5


@pytest.mark.parametrize("shape", [(40, 40), (60, 20), (20, 60)])
def test_orthogonal_weights_have_one_singular_value(shape: tuple[int, int]) -> None:
    weight = draw_weight(nn.Linear(shape[1], shape[0], dtype=F64), "orthogonal", 1.7, generator())
    torch.testing.assert_close(torch.linalg.svdvals(weight), torch.full((min(shape),), 1.7, dtype=F64))


@pytest.mark.parametrize("kernel", [(3,), (3, 3), (1, 5), (3, 3, 3)])
def test_delta_orthogonal_convolutions_keep_every_norm(kernel: tuple[int, ...]) -> None:
    weight = torch.empty(6, 4, *kernel, dtype=F64)
    delta_orthogonal_(weight, 1.5, generator())
    x = torch.randn(5, 4, *(7,) * len(kernel), generator=generator(1), dtype=F64)
    padded = nn.functional.pad(x, [p for k in reversed(kernel) for p in (k // 2, k // 2)], mode="circular")
    convolve = {1: nn.functional.conv1d, 2: nn.functional.conv2d, 3: nn.functional.conv3d}[len(kernel)]
    y = convolve(padded, weight)
    torch.testing.assert_close(y.flatten(1).norm(dim=1), 1.5 * x.flatten(1).norm(dim=1))


def test_delta_orthogonal_where_it_cannot_be() -> None:
    with pytest.raises(SettingError, match="4 inputs and 3 outputs"):
        delta_orthogonal_(torch.empty(3, 4, 3))
    with pytest.raises(SettingError, match="odd sizes"):
        delta_orthogonal_(torch.empty(4, 4, 2, 2))
    with pytest.raises(SettingError, match="convolution's weight"):
        delta_orthogonal_(torch.empty(4, 4))
    with pytest.raises(SettingError, match="scheme must be one of lecun"):
        draw_weight(nn.Linear(2, 2), "he", 1.0, generator())  # pyright: ignore[reportArgumentType]


def test_the_same_generator_gives_the_same_weights_in_every_type() -> None:
    single, half = (
        draw_weight(nn.Linear(8, 8, dtype=kind), "kaiming", 1.0, generator())
        for kind in (torch.float32, torch.bfloat16)
    )
    assert torch.equal(single.bfloat16(), half)
