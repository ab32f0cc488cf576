"""Similarity of layers by debiased CKA."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from torchstone.details import Surface
from torchstone.errors import SettingError
from torchstone.instruments.measurement import measure
from torchstone.instruments.representation.layer_similarity import LayerSimilarity, judge, longest_block
from torchstone.objectives import Regression
from torchstone.reading import Level, Reading
from torchstone.specimen import Specimen
from torchstone.workbench import Workbench


class Map(nn.Module):
    """Multiplies by a fixed matrix, times a number."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix = nn.Parameter(matrix)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.matrix


def reading(*layers: nn.Module, count: int = 400, width: int = 10, **settings: float) -> Reading:
    x = torch.randn(count, width, generator=torch.Generator().manual_seed(0))
    specimen = Specimen(nn.Sequential(*layers), Regression(), (x, torch.zeros(count, width)))
    return measure(LayerSimilarity(**settings), Workbench.on(specimen))  # pyright: ignore[reportArgumentType]


def orthogonal(seed: int, width: int = 10) -> Tensor:
    return torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(seed))).Q


def test_rotations_and_scales_are_the_same_and_other_maps_are_not() -> None:
    stretched = orthogonal(3) @ torch.diag(torch.logspace(-2, 2, 10))
    found = reading(Map(orthogonal(1)), Map(5 * orthogonal(2)), Map(stretched), Map(orthogonal(4)))
    surface = next(detail for detail in found.details if isinstance(detail, Surface))
    assert surface.z[0][1] == pytest.approx(1, abs=1e-6)
    assert surface.z[2][3] == pytest.approx(1, abs=1e-6)
    assert surface.z[0][2] < 0.6
    assert surface.z[0][2] == surface.z[2][0]
    assert all(surface.z[i][i] == 1 for i in range(4))


def test_it_agrees_with_the_unbiased_estimator_by_hand() -> None:
    """Song et al. 2012, equation (5), with Gram matrices of centred diagonals written out."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(60, 4, generator=generator, dtype=torch.float64)
    mixing = torch.randn(4, 7, generator=generator, dtype=torch.float64)

    def hsic(first: Tensor, second: Tensor) -> float:
        k, l = first @ first.T, second @ second.T
        k, l = k - torch.diag(k.diag()), l - torch.diag(l.diag())
        n = len(k)
        total = torch.trace(k @ l) + k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k @ l).sum()
        return float(total / (n * (n - 3)))

    first, second = x, torch.tanh(x @ mixing)
    expected = hsic(first, second) / (hsic(first, first) * hsic(second, second)) ** 0.5
    model = nn.Sequential(
        Map(torch.eye(4, dtype=torch.float64)), Map(mixing), nn.Tanh(), Map(torch.ones(7, 1).double())
    )
    specimen = Specimen(model, Regression(), (x, x[:, :1]))
    found = measure(LayerSimilarity(examples=60), Workbench.on(specimen))
    assert found.value == pytest.approx(expected, rel=1e-4)  # features are recorded in float32


def test_a_stack_of_equal_layers_is_one_block() -> None:
    found = reading(*(Map(orthogonal(seed)) for seed in range(6)))
    assert found.verdict.level is Level.ATTENTION
    assert "6 of 6" in found.verdict.reason


def test_independent_layers_have_similarity_zero() -> None:
    """A hash of the input keeps nothing of its geometry; the plain estimate would not be near 0 at 60 examples."""
    found = reading(Map(torch.eye(10)), Hash(), Map(torch.ones(300, 10)), count=60)
    assert found.value is not None
    assert found.uncertainty is not None
    assert found.uncertainty.standard_error is not None
    assert abs(found.value) < 3 * found.uncertainty.standard_error


class Hash(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        mixing = torch.randn(x.shape[1], 300, generator=torch.Generator().manual_seed(9)) * 1e4
        return torch.sin(x @ mixing)


def test_blocks_are_counted_in_layers() -> None:
    assert longest_block([], 0.9) == 1
    assert longest_block([0.1, 0.2], 0.9) == 1
    assert longest_block([0.95, 0.2, 0.95, 0.99], 0.9) == 3


def test_judgement() -> None:
    assert judge(3, 4).level is Level.GOOD
    assert judge(4, 8).level is Level.ATTENTION
    assert judge(4, 9).level is Level.GOOD
    assert judge(4, 8).source


def test_too_few_examples_have_no_similarity() -> None:
    assert reading(Map(orthogonal(1)), Map(orthogonal(2)), count=6).verdict.level is Level.NOT_APPLICABLE


def test_bad_settings_are_named() -> None:
    with pytest.raises(SettingError, match=r"layer_similarity\.same"):
        LayerSimilarity(same=1.5)
    with pytest.raises(SettingError, match=r"layer_similarity\.layers"):
        LayerSimilarity(layers=1)
