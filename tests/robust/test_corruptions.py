from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from torchstone.errors import NumericalError, SettingError
from torchstone.robust import (
    CORRUPTIONS,
    SEVERITIES,
    Contrast,
    FeatureDropout,
    GaussianBlur,
    GaussianNoise,
    ImpulseNoise,
    InputScale,
    UniformNoise,
    corrupted,
)

ALL = pytest.mark.parametrize("kind", CORRUPTIONS, ids=lambda kind: kind.name)
SHAPES = [(400,), (50, 7), (50, 4, 5), (50, 3, 8, 8), (20, 2, 3, 4, 4)]


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _images(n: int = 40, size: int = 16) -> Tensor:
    return torch.rand(n, 3, size, size, generator=_generator(5), dtype=torch.float64)


@ALL
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_severity_zero_is_the_identity_and_higher_ones_take_more_away(kind, shape, dtype) -> None:
    inputs = torch.randn(shape, generator=_generator()).to(dtype)
    if not kind.applies_to(inputs):
        return
    scale = InputScale.of(inputs)
    kept = inputs.clone()
    versions = [corrupted(kind, inputs, s, scale, _generator(1)) for s in SEVERITIES]
    assert torch.equal(versions[0], inputs)
    assert versions[0].data_ptr() != inputs.data_ptr()
    assert torch.equal(inputs, kept)
    changes = [float((v - inputs).double().norm()) for v in versions]
    assert all(a < b for a, b in pairwise(changes)), changes
    assert all(v.dtype == dtype and v.shape == inputs.shape for v in versions)


@ALL
def test_the_same_seed_gives_the_same_bits(kind) -> None:
    inputs, rng = _images(), torch.get_rng_state()
    scale = InputScale.of(inputs)
    first, second = (corrupted(kind, inputs, 3, scale, _generator(2)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), rng)


@ALL
def test_corruptions_follow_the_unit_of_the_inputs(kind) -> None:
    inputs = _images()
    other = 40 * inputs - 7
    here = corrupted(kind, inputs, 4, InputScale.of(inputs), _generator(2))
    there = corrupted(kind, other, 4, InputScale.of(other), _generator(2))
    assert torch.allclose(there, 40 * here - 7, atol=1e-10)


@pytest.mark.parametrize("kind", [GaussianNoise(), UniformNoise()])
@pytest.mark.parametrize("severity", [1, 5])
def test_noise_has_the_stated_deviation_in_units_of_each_features_own(kind, severity: int) -> None:
    from scipy.stats import kstest

    unit = torch.tensor([1e-3, 1.0, 1e6], dtype=torch.float64)
    inputs = unit * torch.randn(20_000, 3, generator=_generator(), dtype=torch.float64)
    noise = corrupted(kind, inputs, severity, InputScale.of(inputs), _generator(1)) - inputs
    stated = kind.strengths[severity - 1] * inputs.std(dim=0, correction=0)
    law = "norm" if isinstance(kind, GaussianNoise) else "uniform"
    for column, deviation in zip(noise.T, stated.tolist(), strict=True):
        where = (0, deviation) if law == "norm" else (-math.sqrt(3) * deviation, 2 * math.sqrt(3) * deviation)
        assert kstest(column.numpy(), law, args=where).pvalue > 1e-3


@pytest.mark.parametrize("kind", [ImpulseNoise(), FeatureDropout()])
def test_shares_are_binomial_and_nested(kind) -> None:
    from scipy.stats import binomtest

    inputs = torch.rand(2000, 20, generator=_generator(), dtype=torch.float64)
    scale = InputScale.of(inputs)
    got, before = inputs, torch.zeros(2000, 20, dtype=torch.bool)
    for severity, share in enumerate(kind.strengths, start=1):
        got = corrupted(kind, inputs, severity, scale, _generator(1))
        hit = got != inputs
        # The least and the greatest value may be replaced by themselves: one in a thousand each.
        expected = share if isinstance(kind, FeatureDropout) else share * (1 - 1 / 2000)
        assert binomtest(int(hit.sum()), hit.numel(), expected).pvalue > 1e-3
        assert bool((hit >= before).all())
        before = hit
    hit = before
    if isinstance(kind, ImpulseNoise):
        ends = (got == scale.low) | (got == scale.high)
        assert bool(ends[hit].all())
        assert binomtest(int((got == scale.high)[hit].sum()), int(hit.sum()), 0.5).pvalue > 1e-3
    else:
        assert torch.equal(got[hit], scale.mean.expand_as(got)[hit])


def test_a_lost_pixel_is_lost_in_all_channels() -> None:
    inputs = _images()
    hit = corrupted(FeatureDropout(), inputs, 5, InputScale.of(inputs), _generator()) != inputs
    assert torch.equal(hit.any(dim=1), hit.all(dim=1))
    assert 0.2 < float(hit.double().mean()) < 0.35


def test_contrast_keeps_the_mean_and_shrinks_the_spread() -> None:
    images = _images()
    got = corrupted(Contrast(), images, 2, InputScale.of(images), _generator())
    assert torch.allclose(got.mean(dim=(2, 3)), images.mean(dim=(2, 3)), rtol=1e-12)
    assert torch.allclose(got.std(dim=(2, 3)), 0.3 * images.std(dim=(2, 3)), rtol=1e-12)
    table = torch.randn(30, 4, generator=_generator(), dtype=torch.float64)
    got = corrupted(Contrast(), table, 2, InputScale.of(table), _generator())
    assert torch.allclose(got.mean(dim=0), table.mean(dim=0), atol=1e-12)
    assert torch.allclose(got.std(dim=0), 0.3 * table.std(dim=0), rtol=1e-12)


@pytest.mark.parametrize(("height", "width"), [(2, 3), (8, 8), (16, 30), (70, 64)])
@pytest.mark.parametrize("severity", [1, 5])
def test_blur_is_scipys_gaussian_filter(height: int, width: int, severity: int) -> None:
    from scipy.ndimage import gaussian_filter

    images = torch.rand(3, 2, height, width, generator=_generator(), dtype=torch.float64)
    got = corrupted(GaussianBlur(), images, severity, InputScale.of(images), _generator())
    sigma = GaussianBlur().strengths[severity - 1] * max(1.0, min(height, width) / 32)
    expected = gaussian_filter(images.numpy(), sigma=(0, 0, sigma, sigma), mode="nearest")
    assert torch.allclose(got, torch.from_numpy(expected), atol=1e-12)


def test_a_flat_image_stays_flat_under_blur() -> None:
    flat = torch.full((2, 1, 9, 9), 0.7, dtype=torch.float64)
    assert torch.allclose(corrupted(GaussianBlur(), flat, 5, InputScale.of(flat), _generator()), flat)


def test_blur_is_for_images_only() -> None:
    for shape in ((5, 3), (5, 3, 4), (5, 3, 1, 9), (5, 1, 3, 3, 3)):
        assert not GaussianBlur().applies_to(torch.zeros(shape))
    assert GaussianBlur().applies_to(torch.zeros(5, 3, 4, 4))
    with pytest.raises(SettingError, match=r"Gaussian blur needs inputs it applies to: float images \(N, C, H, W\)"):  # fmt: skip
        corrupted(GaussianBlur(), torch.zeros(5, 3), 1, InputScale.of(torch.zeros(5, 3)), _generator())


def test_clipping_and_empty_batches() -> None:
    inputs = _images()
    scale = InputScale.of(inputs)
    got = corrupted(GaussianNoise(), inputs, 5, scale, _generator(), clip=(0.0, 1.0))
    assert (float(got.min()), float(got.max())) == (0.0, 1.0)
    for kind in CORRUPTIONS:
        assert corrupted(kind, inputs[:0], 3, scale, _generator()).shape == (0, 3, 16, 16)


@pytest.mark.parametrize(
    ("shape", "kept"),
    [
        ((9,), (1,)),
        ((9, 4), (1, 4)),
        ((9, 4, 5), (1, 1, 1)),
        ((9, 4, 5, 6), (1, 4, 1, 1)),
        ((9, 4, 2, 3, 2), (1, 4, 1, 1, 1)),
    ],
)
def test_the_scale_is_per_feature_or_per_channel(shape, kept) -> None:
    inputs = torch.randn(shape, generator=_generator(), dtype=torch.float64)
    scale = InputScale.of(inputs)
    assert scale.mean.shape == torch.Size(kept)
    axes = [axis for axis, size in enumerate(kept) if size == 1]
    array = inputs.numpy()
    for got, expected in (
        (scale.mean, array.mean(axis=tuple(axes))),
        (scale.deviation, array.std(axis=tuple(axes))),
        (scale.low, array.min(axis=tuple(axes))),
        (scale.high, array.max(axis=tuple(axes))),
    ):
        assert torch.allclose(got.flatten(), torch.as_tensor(expected).flatten())


def test_constant_features_get_no_noise() -> None:
    inputs = torch.rand(30, 2, generator=_generator())
    inputs[:, 1] = 3.0
    got = corrupted(GaussianNoise(), inputs, 5, InputScale.of(inputs), _generator())
    assert bool((got[:, 1] == 3).all())
    assert not torch.equal(got[:, 0], inputs[:, 0])


def test_bad_arguments_are_refused() -> None:
    inputs = torch.rand(4, 3, generator=_generator())
    scale = InputScale.of(inputs)
    with pytest.raises(SettingError, match=r"floating point inputs .*int64.*tokens have no such scale"):
        corrupted(GaussianNoise(), torch.zeros(4, 3, dtype=torch.long), 1, scale, _generator())
    with pytest.raises(NumericalError, match="finite inputs; got 1 NaN"):
        corrupted(GaussianNoise(), torch.tensor([[torch.nan]]), 1, scale, _generator())
    for severity in (-1, 6, 1.5):
        with pytest.raises(SettingError, match="severity must be a whole number from 0 to 5"):
            corrupted(GaussianNoise(), inputs, severity, scale, _generator())  # pyright: ignore[reportArgumentType]
    with pytest.raises(SettingError, match=r"clip must be \(low, high\)"):
        corrupted(GaussianNoise(), inputs, 1, scale, _generator(), clip=(1.0, 0.0))
    with pytest.raises(SettingError, match="at least one example"):
        InputScale.of(inputs[:0])
