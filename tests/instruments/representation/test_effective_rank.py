"""Effective rank of layers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from torchstone.details import Table
from torchstone.errors import SettingError
from torchstone.instruments.measurement import measure
from torchstone.instruments.representation.effective_rank import EffectiveRank, judge
from torchstone.kernels.spectrum import covariance_spectrum, effective_rank
from torchstone.objectives import Classification, Regression
from torchstone.reading import Level
from torchstone.specimen import Specimen
from torchstone.workbench import Workbench


class Embedded(nn.Module):
    """Puts r-dimensional Gaussian inputs into R^100 by an orthonormal map, then reads them out."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(rank)
        self.into = nn.Linear(rank, 100, bias=False)
        self.out = nn.Linear(100, 1)
        basis = torch.linalg.qr(torch.randn(100, rank, generator=generator)).Q
        with torch.no_grad():
            self.into.weight.copy_(basis)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.into(x))


@pytest.mark.parametrize("rank", [1, 5, 20])
def test_a_gaussian_of_rank_r_in_100_dimensions_has_effective_rank_r(rank: int) -> None:
    x = torch.randn(4000, rank, generator=torch.Generator().manual_seed(1))
    specimen = Specimen(Embedded(rank), Regression(), (x, x[:, :1]))
    reading = measure(EffectiveRank(examples=4000), Workbench.on(specimen))
    assert reading.value == pytest.approx(rank, rel=0.02)


def test_the_table_agrees_with_a_plain_eigendecomposition() -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(300, 12, generator=generator) * torch.linspace(0.1, 3, 12)
    model = nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 2))
    bench = Workbench.on(Specimen(model, Classification(), (x, (x[:, 0] > 0).long())))
    reading = measure(EffectiveRank(), bench)
    table = next(detail for detail in reading.details if isinstance(detail, Table))
    hidden = torch.tanh(model[0](x)).detach().double()
    values = torch.linalg.eigvalsh(torch.cov(hidden.T)).clamp(min=0)
    shares = values / values.sum()
    expected = math.exp(-float((shares * shares.clamp(min=1e-300).log()).sum()))
    row = next(row for row in table.rows if row[0] == "1")
    assert row[2] == pytest.approx(expected, rel=1e-5)
    assert row[3] == pytest.approx(float(values.sum() ** 2 / values.square().sum()), rel=1e-5)


def test_the_error_bar_covers() -> None:
    """Jackknife intervals of the effective rank of a known law; its own bias of order 1/n is far below the width."""
    scales = torch.tensor([1.0, 0.7, 0.5, 0.3, 0.2], dtype=torch.float64)
    truth = effective_rank(scales.square())
    generator = torch.Generator().manual_seed(3)
    covered = 0
    for _ in range(200):
        x = (torch.randn(400, 5, generator=generator, dtype=torch.float64) * scales).float()
        specimen = Specimen(
            nn.Sequential(nn.Identity(), Copy(), nn.Linear(5, 1)), Regression(), (x, x[:, :1])
        )
        reading = measure(EffectiveRank(blocks=20), Workbench.on(specimen))
        assert reading.uncertainty is not None
        covered += reading.uncertainty.low <= truth <= reading.uncertainty.high
    # Binomial(200, 0.95): below 181 or (bars too wide) above 199 has probability under 1%.
    assert 181 <= covered <= 199


class Copy(nn.Module):
    """A layer whose output is its input."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 1


def test_a_collapsed_layer_is_attention() -> None:
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(200, 10, generator=generator)
    model = nn.Sequential(nn.Linear(10, 20), nn.Tanh(), nn.Linear(20, 10))
    healthy = measure(
        EffectiveRank(), Workbench.on(Specimen(model, Classification(), (x, torch.arange(200) % 10)))
    )
    with torch.no_grad():
        first: nn.Linear = model[0]  # pyright: ignore[reportAssignmentType]
        first.weight.copy_(first.weight[:1].expand(20, -1).clone())
    collapsed = measure(
        EffectiveRank(), Workbench.on(Specimen(model, Classification(), (x, torch.arange(200) % 10)))
    )
    assert healthy.verdict.level is Level.GOOD
    assert collapsed.verdict.level is Level.ATTENTION
    assert collapsed.value is not None
    assert collapsed.value < 2


def test_rank_of_the_spectrum_by_hand() -> None:
    assert effective_rank(torch.tensor([1.0, 1.0, 1.0, 1.0])) == pytest.approx(4)
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    assert effective_rank(covariance_spectrum(x)) == pytest.approx(2)


def test_judgement() -> None:
    assert judge(4.5, 10, 64).level is Level.GOOD
    assert judge(4.4, 10, 64).level is Level.ATTENTION
    assert judge(float("nan"), 10, 64).level is Level.ATTENTION
    assert judge(1.6, None, 64).level is Level.GOOD
    assert judge(1.4, None, 64).level is Level.ATTENTION
    assert judge(1.0, 2, 64).level is Level.GOOD  # two classes need one direction
    # A narrow layer has no more directions than its width: using half of them is no collapse.
    assert judge(1.0, None, 1).level is Level.GOOD
    assert judge(2.0, 10, 4).level is Level.GOOD
    assert judge(1.9, 10, 4).level is Level.ATTENTION
    assert judge(0.0, 10, 1).level is Level.ATTENTION
    assert "narrower layer's width: here 2" in judge(2.0, 10, 4).threshold
    assert judge(4.4, 10, 64).source


def test_a_network_of_one_output_is_no_collapse_and_hides_none() -> None:
    x = torch.randn(60, 8, generator=torch.Generator().manual_seed(4))
    bare = measure(EffectiveRank(), Workbench.on(Specimen(nn.Linear(8, 1), Regression(), (x, x[:, :1]))))
    assert bare.verdict.level is Level.GOOD
    assert bare.headline.endswith("uses 1 of its 1 dimension.")
    model = nn.Sequential(
        nn.Linear(8, 1), nn.Linear(1, 6), nn.Linear(6, 1)
    )  # six directions, of which one is used
    deep = measure(EffectiveRank(), Workbench.on(Specimen(model, Regression(), (x, x[:, :1]))))
    assert deep.verdict.level is Level.ATTENTION
    assert "nearest to a collapse, 1, uses 1 of its 6 dimensions" in deep.headline


def test_bad_settings_are_named() -> None:
    with pytest.raises(SettingError, match=r"effective_rank\.examples"):
        EffectiveRank(examples=3)
    with pytest.raises(SettingError, match=r"effective_rank\.blocks"):
        EffectiveRank(blocks=1)
