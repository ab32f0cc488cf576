"""Test loss minus training loss, with its error bar."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from torchstone.errors import SettingError
from torchstone.instruments.generalization.generalization_gap import GeneralizationGap, judge
from torchstone.instruments.measurement import measure
from torchstone.objectives import Regression
from torchstone.reading import Level, Reading
from torchstone.specimen import Specimen
from torchstone.workbench import Workbench


class Zero(nn.Module):
    """Predicts 0, so that the loss of an example is its squared target."""

    def forward(self, x: Tensor) -> Tensor:
        return 0 * x


def gap(train: Tensor, test: Tensor) -> Reading:
    specimen = Specimen(Zero(), Regression(), (train, train), (test, test))
    return measure(GeneralizationGap(), Workbench.on(specimen))


def test_the_gap_and_its_standard_error() -> None:
    train, test = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[2.0], [4.0]])
    reading = gap(train, test)
    assert reading.value == pytest.approx(10 - 14 / 3)
    losses, held = torch.tensor([1.0, 4.0, 9.0]), torch.tensor([4.0, 16.0])
    expected = float((losses.var() / 3 + held.var() / 2).sqrt())
    assert reading.uncertainty is not None
    assert reading.uncertainty.standard_error == pytest.approx(expected)


def test_the_error_bar_covers() -> None:
    """Losses are chi-squared with means 1 and 4, so the true gap is 3."""
    covered = 0
    for seed in range(300):
        generator = torch.Generator().manual_seed(seed)
        reading = gap(torch.randn(200, 1, generator=generator), 2 * torch.randn(150, 1, generator=generator))
        assert reading.uncertainty is not None
        covered += reading.uncertainty.low <= 3 <= reading.uncertainty.high
    assert 273 <= covered <= 298  # Binomial(300, 0.95) within about 1% in each tail


def test_a_network_that_does_as_well_on_test_data_is_good_and_one_that_does_not_is_noticed() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(400, 1, generator=generator)
    assert gap(rows[:200], rows[200:]).verdict.level is Level.GOOD
    assert gap(0.1 * rows[:200], rows[200:]).verdict.level is Level.ATTENTION


def test_single_examples_have_no_error_bar_but_a_value() -> None:
    reading = gap(torch.ones(1, 1), 2 * torch.ones(1, 1))
    assert reading.value == 3
    assert reading.verdict.level in (Level.GOOD, Level.ATTENTION)


def test_judgement() -> None:
    assert judge(0.6, 0.5, 1.0, 0.5).level is Level.ATTENTION
    assert judge(0.6, -0.1, 1.0, 0.5).level is Level.GOOD  # could be chance
    assert judge(0.4, 0.3, 1.0, 0.5).level is Level.GOOD
    assert judge(0.4, 0.3, 1.0, 0.5).source


def test_bad_settings_are_named() -> None:
    with pytest.raises(SettingError, match=r"generalization_gap\.attention_share"):
        GeneralizationGap(attention_share=2.0)
