"""Alignment and uniformity on the sphere."""

from __future__ import annotations

import math

import pytest
import torch

from torchstone.errors import NumericalError, SettingError
from torchstone.kernels.uniformity import alignment, uniformity, uniformity_of_sphere


@pytest.mark.parametrize("dimension", [2, 3, 8, 64])
def test_uniform_points_have_the_closed_form(dimension: int) -> None:
    generator = torch.Generator().manual_seed(dimension)
    points = torch.randn(5000, dimension, generator=generator, dtype=torch.float64)
    assert uniformity(points) == pytest.approx(uniformity_of_sphere(dimension), rel=0.01)


def test_the_closed_form_on_the_circle_and_the_sphere() -> None:
    # On the circle E exp(-t |u - v|^2) = exp(-2t) I_0(2t); on the 2-sphere exp(-2t) sinh(2t)/(2t).
    from scipy.special import i0

    assert uniformity_of_sphere(2) == pytest.approx(math.log(i0(4.0)) - 4)
    assert uniformity_of_sphere(3) == pytest.approx(math.log(math.sinh(4.0) / 4) - 4)


def test_uniformity_by_brute_force_in_any_chunks() -> None:
    points = torch.randn(37, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    unit = points / points.norm(dim=1, keepdim=True)
    pairs = torch.pdist(unit).square()
    expected = math.log(float((-2 * pairs).exp().mean()))
    assert uniformity(points) == pytest.approx(expected, rel=1e-12)
    assert uniformity(points, chunk=5) == pytest.approx(expected, rel=1e-12)
    assert uniformity(torch.ones(4, 3)) == pytest.approx(0)


def test_alignment_by_brute_force() -> None:
    generator = torch.Generator().manual_seed(1)
    points = torch.randn(30, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (30,), generator=generator)
    unit = points / points.norm(dim=1, keepdim=True)
    squared = torch.cdist(unit, unit).square()
    positive = (labels[:, None] == labels[None]) & ~torch.eye(30, dtype=torch.bool)
    assert alignment(points, labels) == pytest.approx(float(squared[positive].mean()), rel=1e-10)
    assert math.isnan(alignment(points[:2], torch.tensor([0, 1])))
    assert alignment(torch.ones(5, 2), torch.zeros(5)) == pytest.approx(0, abs=1e-12)


def test_bad_input() -> None:
    with pytest.raises(SettingError, match="at least 2"):
        uniformity(torch.ones(1, 3))
    with pytest.raises(NumericalError, match="finite"):
        uniformity(torch.tensor([[float("nan"), 1.0], [0.0, 1.0]]))
