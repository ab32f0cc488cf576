"""Principal components of paths: against scikit-learn, against derived and simulated nulls."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from sklearn.decomposition import PCA

from torchstone.errors import SettingError
from torchstone.landscape import (
    gram_of_path,
    heading,
    ornstein_uhlenbeck_shares,
    random_sign_headings,
    random_sign_shares,
    random_walk_shares,
    trajectory_pca,
)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def walk(points: int, dimensions: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(points, dimensions, generator=seeded(seed), dtype=torch.float64).cumsum(0)


def test_components_are_those_of_scikit_learn() -> None:
    path = walk(12, 40)
    found = trajectory_pca(gram_of_path(path), components=3)
    reference: Any = PCA().fit(path.numpy())
    assert found.shares.tolist() == pytest.approx(reference.explained_variance_ratio_[:11].tolist(), rel=1e-9)
    axes = found.mixture @ (path - path[-1])
    assert torch.allclose(axes @ axes.T, torch.eye(3, dtype=torch.float64), atol=1e-10)
    overlap = (axes @ torch.from_numpy(reference.components_[:3]).T).diagonal().abs()
    assert overlap.tolist() == pytest.approx([1, 1, 1])
    assert torch.allclose(found.path, (path - path[-1]) @ axes.T, atol=1e-9)
    assert not found.path[-1].any() or found.path[-1].abs().max() < 1e-9
    assert (found.path[0] >= 0).all()


def test_the_gram_matrix_is_summed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    path = walk(7, 100)
    whole = gram_of_path(path)
    monkeypatch.setattr("torchstone.landscape.trajectory._CHUNK", 70)
    assert torch.allclose(gram_of_path(list(path.float())), whole, rtol=1e-5)
    shifted = path - path[-1]
    assert torch.allclose(gram_of_path(path), shifted @ shifted.T, rtol=1e-12)


def test_a_random_walk_has_the_shares_of_the_null() -> None:
    """T = 500 steps in D = 4000 dimensions: 6 / pi^2 = 0.608 and a quarter of it."""
    shares = trajectory_pca(gram_of_path(walk(500, 4000))).shares
    assert float(shares[0]) == pytest.approx(6 / math.pi**2, abs=0.015)
    assert float(shares[1]) == pytest.approx(6 / (4 * math.pi**2), abs=0.008)


@pytest.mark.parametrize("points", [3, 10, 500])
def test_the_finite_formula_is_the_spectrum_of_infinitely_many_dimensions(points: int) -> None:
    sums = torch.ones(points, points, dtype=torch.float64).tril()
    exact = trajectory_pca(sums @ sums.T, 1).shares
    assert random_walk_shares(points, points - 1).tolist() == pytest.approx(exact.tolist(), rel=1e-9)
    assert float(random_walk_shares(points, points - 1).sum()) == pytest.approx(1, rel=1e-12)


def test_the_ornstein_uhlenbeck_path_interpolates_between_a_walk_and_noise() -> None:
    assert ornstein_uhlenbeck_shares(50, 3, 0.0).tolist() == pytest.approx(
        random_walk_shares(50, 3).tolist(), rel=1e-9
    )
    generator, reversion = seeded(1), 0.1
    theta, path = torch.zeros(6000, dtype=torch.float64), []
    for _ in range(60):
        path.append(theta)
        theta = (1 - reversion) * theta + torch.randn(6000, generator=generator, dtype=torch.float64)
    shares = trajectory_pca(gram_of_path(path)).shares
    expected = ornstein_uhlenbeck_shares(60, 3, reversion)
    assert shares[:3].tolist() == pytest.approx(expected.tolist(), abs=0.01)
    assert float(expected[0]) < 0.35  # far from 0.61
    noise = ornstein_uhlenbeck_shares(60, 2, 1.0)
    assert float(noise[0]) < 0.02
    with pytest.raises(SettingError, match=r"reversion must lie in \[0, 1\]"):
        ornstein_uhlenbeck_shares(5, 1, 2.0)


def test_random_signs_have_the_walks_mean_in_many_dimensions() -> None:
    shares = random_sign_shares(gram_of_path(walk(30, 20_000)), 200, seeded(2))
    assert shares.mean(0)[:2].tolist() == pytest.approx(random_walk_shares(30, 2).tolist(), abs=0.01)


def test_random_signs_are_exact_where_the_ideal_walk_is_not() -> None:
    """Shrinking steps in three dimensions without drift: p-values are uniform, and the share is far above 0.61."""
    p_values, seen = [], []
    scale = 0.8 ** torch.arange(20, dtype=torch.float64)[:, None]
    for seed in range(200):
        steps = scale * torch.randn(20, 3, generator=seeded(seed), dtype=torch.float64)
        gram = gram_of_path(torch.cat([torch.zeros(1, 3).double(), steps.cumsum(0)]))
        share = trajectory_pca(gram).shares[0]
        seen.append(float(share))
        p_values.append(
            float((random_sign_shares(gram, 99, seeded(1000 + seed))[:, 0] >= share).double().mean())
        )
    below = [sum(p <= level for p in p_values) / 200 for level in (0.1, 0.5, 0.9)]
    assert below == pytest.approx([0.1, 0.5, 0.9], abs=0.11)
    assert sum(seen) / 200 > 0.75


def test_drift_is_beyond_the_null() -> None:
    drifting = walk(30, 500) + 5 * torch.arange(30, dtype=torch.float64)[:, None] / 500**0.5
    gram = gram_of_path(drifting)
    assert trajectory_pca(gram).shares[0] > random_sign_shares(gram, 200, seeded(0))[:, 0].max()


def test_paths_that_do_not_move_or_are_too_short() -> None:
    still = trajectory_pca(gram_of_path(torch.ones(4, 3)))
    assert not still.shares.any()
    assert not still.path.any()
    assert random_sign_shares(gram_of_path(torch.ones(4, 3)), 5, seeded(0)).isfinite().all()
    with pytest.raises(SettingError, match="at least three points of one shape; got 2"):
        gram_of_path(torch.ones(2, 3))
    with pytest.raises(SettingError, match="between 1 and 3"):
        trajectory_pca(gram_of_path(torch.ones(4, 3)), components=4)


def test_the_heading_of_known_paths() -> None:
    straight = torch.arange(7.0)[:, None] * torch.tensor([1.0, -2.0])
    assert heading(gram_of_path(straight)) == pytest.approx(6)
    assert heading(gram_of_path(torch.cat([straight, straight.flip(0)]))) == pytest.approx(0)
    assert heading(gram_of_path(walk(400, 5000))) == pytest.approx(1, abs=0.1)
    assert heading(gram_of_path(torch.ones(4, 3))) == 0


def test_headings_of_random_signs_average_to_one_and_give_uniform_p_values() -> None:
    p_values = []
    scale = 0.8 ** torch.arange(20, dtype=torch.float64)[:, None]
    for seed in range(200):
        steps = scale * torch.randn(20, 3, generator=seeded(seed), dtype=torch.float64)
        gram = gram_of_path(torch.cat([torch.zeros(1, 3).double(), steps.cumsum(0)]))
        null = random_sign_headings(gram, 99, seeded(1000 + seed))
        p_values.append(float((null >= heading(gram)).double().mean()))
    assert [sum(p <= level for p in p_values) / 200 for level in (0.1, 0.5, 0.9)] == pytest.approx(
        [0.1, 0.5, 0.9], abs=0.11
    )
    assert float(random_sign_headings(gram_of_path(walk(20, 4)), 20_000, seeded(0)).mean()) == pytest.approx(
        1, abs=0.03
    )
