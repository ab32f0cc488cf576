"""The instrument: its table and templates, its pool, and what it says when there is none."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone.details import Scatter, Table
from torchstone.errors import SettingError
from torchstone.instruments.generalization.complexity_measures import ComplexityMeasures, judge
from torchstone.instruments.measurement import measure
from torchstone.objectives import Classification
from torchstone.reading import Level, Reading
from torchstone.recipe import Recipe
from torchstone.specimen import Specimen
from torchstone.specimens.networks import mlp
from torchstone.workbench import Workbench
from torchstone.workbench.complexity import NAMES


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def data(count: int, seed: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, 5, generator=seeded(seed))
    return x, x[:, :3].argmax(1)


def build(*, generator: torch.Generator) -> nn.Module:
    return mlp([5, 12, 3], generator=generator)


def specimen(**settings: Any) -> Specimen:
    recipe = Recipe(
        optimizer=lambda ps: torch.optim.SGD(ps, lr=0.2),
        batch_size=16,
        epochs=20,
        build=build,
        initial_state=build(generator=seeded()).state_dict(),
    )
    settings = {"recipe": recipe, "test": data(300, 2), **settings}
    return Specimen(build(generator=seeded(1)), Classification(), data(120, 1), **settings)


def read(on: Specimen, **settings: Any) -> Reading:
    return measure(ComplexityMeasures(**settings), Workbench.on(on))


def tables(reading: Reading) -> list[Table]:
    return [detail for detail in reading.details if isinstance(detail, Table)]


def test_every_measure_has_a_row_with_both_templates() -> None:
    reading = read(specimen(), examples=60)
    [table] = tables(reading)
    assert [row[0] for row in table.rows] == list(NAMES)
    for row in table.rows:
        value, rate, root = (float(cell) for cell in row[2:] if isinstance(cell, float | int))
        if math.isfinite(value):
            assert rate == pytest.approx(value / 120, rel=1e-12)  # n is the training set, not the sample
            assert root == pytest.approx(math.sqrt(value / 120), rel=1e-12)
    assert (reading.value, reading.verdict.level) == (None, Level.INFORMATIVE)
    assert "moved" in reading.headline
    assert any("60 of 120 training examples" in note for note in reading.notes)
    assert any("levels=3" in note for note in reading.notes)


def test_a_pool_ranks_the_measures() -> None:
    reading = read(specimen(), levels=2)
    panel, ranking = tables(reading)
    assert len(panel.rows) == len(NAMES)
    taus = [row[1] for row in ranking.rows if isinstance(row[1], float)]
    assert taus == sorted(taus, reverse=True)
    assert reading.value == taus[0]
    assert reading.uncertainty is not None
    assert reading.uncertainty.covers == "trained networks"
    assert all(isinstance(cell, float) for row in ranking.rows for cell in row[2:])
    by_name = {row[0]: row for row in ranking.rows}
    assert by_name["number of parameters"][1] is None  # the same for all networks
    assert by_name["number of parameters"][-1] == 0
    assert any(isinstance(detail, Scatter) for detail in reading.details)
    assert "8 networks" in reading.headline


def test_without_a_pool_the_reason_is_said() -> None:
    reading = read(specimen(test=None), levels=2)
    assert reading.value is None
    assert any("No pool was trained: needs test examples" in note for note in reading.notes)
    assert reading.verdict.level is Level.INFORMATIVE


def test_missing_measures_are_empty_cells_with_a_reason() -> None:
    reading = read(specimen(recipe=None))
    [table] = tables(reading)
    row = next(row for row in table.rows if row[0] == "squared distance from initialisation")
    assert row[2:] == (None, None, None)
    assert any("squared distance from initialisation (needs Recipe" in note for note in reading.notes)


def test_judge() -> None:
    assert "beyond chance" in judge(0.1).reason
    assert judge(-0.1).reason.startswith("no measure")
    assert "other networks" in judge(None).reason
    assert {judge(low).level for low in (None, -1.0, 1.0)} == {Level.INFORMATIVE}


@pytest.mark.parametrize("wrong", [{"examples": 1}, {"levels": -1}, {"levels": 7}])
def test_settings_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=f"complexity_measures.{next(iter(wrong))}"):
        ComplexityMeasures(**wrong)
