"""Rules that fit every training example and still predict."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from torchstone.errors import SettingError
from torchstone.kernels.interpolating import simplicial_interpolation, weighted_interpolation
from torchstone.kernels.nearest import nearest_neighbours


def noisy(count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, 3, generator=generator, dtype=torch.float64)
    clean = torch.sin(4 * x[:, 0]) + x[:, 1]
    return x, clean + 0.3 * torch.randn(count, generator=generator, dtype=torch.float64)


def test_the_training_residual_is_exactly_zero() -> None:
    x, y = noisy(300, 0)
    assert torch.equal(weighted_interpolation(x, y, x, 20), y)
    assert torch.equal(simplicial_interpolation(x, y, x), y)
    wide = torch.stack([y, -y], dim=1)
    assert torch.equal(weighted_interpolation(x, wide, x, 20), wide)
    assert torch.equal(simplicial_interpolation(x, wide, x), wide)


def test_on_noisy_data_the_risk_stays_near_that_of_the_best_neighbour_average() -> None:
    (x, y), (asked, _) = noisy(4000, 1), noisy(2000, 2)
    truth = torch.sin(4 * asked[:, 0]) + asked[:, 1]
    found = nearest_neighbours(asked, x, 200).indices
    risks = [
        float((y[found[:, :k]].mean(1) - truth).square().mean()) + 0.09 for k in (5, 10, 20, 40, 80, 200)
    ]
    ours = float((weighted_interpolation(x, y, asked, 100, exponent=1.0) - truth).square().mean()) + 0.09
    assert ours <= 1.3 * min(risks)


def test_simplicial_interpolation_is_exact_on_affine_targets_inside_the_hull() -> None:
    x = torch.rand(100, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    asked = 0.3 + 0.4 * torch.rand(50, 2, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    affine = lambda points: 2 * points[:, 0] - points[:, 1] + 1
    assert torch.allclose(simplicial_interpolation(x, affine(x), asked), affine(asked), atol=1e-12)
    outside = torch.tensor([[9.0, 9.0]], dtype=torch.float64)
    nearest = int((x - outside).norm(dim=1).argmin())
    assert float(simplicial_interpolation(x, affine(x), outside)) == float(affine(x)[nearest])


def test_bad_exponents_are_refused() -> None:
    x, y = noisy(10, 5)
    with pytest.raises(SettingError, match="exponent must be positive"):
        weighted_interpolation(x, y, x, 3, exponent=0.0)
