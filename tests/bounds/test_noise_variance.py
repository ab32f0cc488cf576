"""The Gamma test on laws whose noise is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from torchstone.bounds.noise_variance import NoiseVariance, noise_variance
from torchstone.errors import NumericalError, SettingError

Law = Callable[[torch.Generator, int], tuple[Tensor, Tensor]]


def uniform(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=generator, dtype=torch.float64)


def smooth(generator: torch.Generator, n: int) -> tuple[Tensor, Tensor]:
    x = uniform(generator, n, 2)
    return x, 2 * torch.sin(3 * x[:, 0]) + x[:, 1]


def few_values(generator: torch.Generator, n: int) -> tuple[Tensor, Tensor]:
    """Every input has about n / 20 copies."""
    x = torch.randint(20, (n, 1), generator=generator).double() / 20
    return x, torch.sin(6 * x[:, 0])


def four_copies(generator: torch.Generator, n: int) -> tuple[Tensor, Tensor]:
    x = uniform(generator, n // 4, 2).repeat(4, 1)
    return x, 2 * torch.sin(3 * x[:, 0]) + x[:, 1]


def friedman(generator: torch.Generator, n: int) -> tuple[Tensor, Tensor]:
    """Friedman 1991: five inputs that matter and five that do not."""
    x = uniform(generator, n, 10)
    wave = 10 * torch.sin(math.pi * x[:, 0] * x[:, 1])
    return x, wave + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]


def repeats(law: Law, times: int, n: int, skewed: bool) -> list[NoiseVariance]:
    """Estimates over fresh samples with noise of variance 0.5, Gaussian or exponential."""
    found = []
    for seed in range(times):
        generator = torch.Generator().manual_seed(seed)
        x, y = law(generator, n)
        if skewed:
            noise = -uniform(generator, n).log() - 1
        else:
            noise = torch.randn(n, generator=generator, dtype=torch.float64)
        found.append(noise_variance(x, y + 0.5**0.5 * noise))
    return found


@pytest.mark.parametrize("skewed", [False, True], ids=["normal", "exponential"])
@pytest.mark.parametrize("law", [smooth, few_values, four_copies])
def test_the_interval_covers_the_noise_variance(law: Law, skewed: bool) -> None:
    found = repeats(law, 200, 400, skewed)
    for covered in (
        sum(one.low <= 0.5 <= one.high for one in found),
        sum(abs(one.value - 0.5) <= 1.96 * one.standard_error for one in found),
    ):
        assert stats.binomtest(covered, 200, 0.95, alternative="less").pvalue > 0.01
    spread = float(np.std([one.value for one in found]))
    reported = float(np.mean([one.standard_error for one in found]))
    assert 0.85 * spread < reported < 1.4 * spread  # neither too short nor useless


def test_in_many_dimensions_the_bias_is_positive_and_the_upper_end_holds() -> None:
    found = repeats(friedman, 60, 400, skewed=False)
    assert np.mean([one.value for one in found]) > 0.5 + 1
    assert all(one.high >= 0.5 for one in found)
    larger = repeats(friedman, 8, 4000, skewed=False)
    assert np.mean([one.value for one in larger]) < np.mean([one.value for one in found])


def test_the_line_against_scikit_learn_and_numpy() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = smooth(generator, 300)
    y = y + 0.3 * torch.randn(300, generator=generator, dtype=torch.float64)
    distances, indices = NearestNeighbors(n_neighbors=11).fit(x.numpy()).kneighbors(x.numpy())
    deltas = (distances[:, 1:] ** 2).mean(0)
    gammas = ((y.numpy()[:, None] - y.numpy()[indices[:, 1:]]) ** 2).mean(0) / 2
    found = noise_variance(x, y)
    assert found.value == pytest.approx(np.polyfit(deltas, gammas, 1)[1], rel=1e-10)
    assert found.distances == pytest.approx(deltas, rel=1e-10)
    assert found.halves == pytest.approx(gammas, rel=1e-10)


def test_copies_do_not_crowd_on_the_first_of_them() -> None:
    """With 10 distinct inputs the estimate is the pooled variance within them: so is its spread."""
    values, pooled = [], []
    for seed in range(100):
        generator = torch.Generator().manual_seed(seed)
        x = torch.arange(10, dtype=torch.float64).repeat_interleave(50)[:, None]
        y = torch.randn(500, generator=generator, dtype=torch.float64)
        values.append(noise_variance(x, y).value)
        pooled.append(float(y.reshape(10, 50).var(1).mean()))
    assert np.mean(values) == pytest.approx(1, abs=0.03)
    assert np.std(values) < 1.3 * np.std(pooled)


def test_several_targets_are_averaged_and_noise_free_ones_have_none() -> None:
    generator = torch.Generator().manual_seed(1)
    x, y = smooth(generator, 500)
    noise = torch.randn(500, 2, generator=generator, dtype=torch.float64)
    both = noise_variance(x, y[:, None] + noise)
    each = [noise_variance(x, y + noise[:, i]).value for i in range(2)]
    assert both.value == pytest.approx(sum(each) / 2, rel=1e-10)
    exact = noise_variance(x, y)
    assert exact.low == 0
    assert exact.value < 1e-3


def test_confidence_widens_the_interval_and_the_global_generator_is_left_alone() -> None:
    generator = torch.Generator().manual_seed(2)
    x, y = few_values(generator, 200)
    y = y + torch.randn(200, generator=generator)
    state = torch.random.get_rng_state()
    narrow, wide = noise_variance(x, y, confidence=0.5), noise_variance(x, y, confidence=0.999)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert noise_variance(x, y, confidence=0.5) == narrow
    assert wide.high > narrow.high
    assert wide.low <= narrow.low


def test_misuse_is_named() -> None:
    x = torch.rand(11, 1, generator=torch.Generator().manual_seed(0))
    with pytest.raises(SettingError, match="needs at least 2 neighbours and 12 examples"):
        noise_variance(x, x)
    with pytest.raises(SettingError, match="needs at least 2 neighbours and 4 examples"):
        noise_variance(x, x, neighbours=1)
    with pytest.raises(SettingError):
        noise_variance(x, x, neighbours=2, confidence=1.5)
    x[3] = math.nan
    with pytest.raises(NumericalError):
        noise_variance(x, torch.ones(11), neighbours=2)
