"""The table of bounds: order, headline, plot and verdict."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from torchstone.details import Curve, Table
from torchstone.errors import SettingError
from torchstone.instruments.generalization.bounds_table import BoundsTable, judge
from torchstone.instruments.measurement import measure
from torchstone.objectives import Classification
from torchstone.reading import Level, Reading
from torchstone.specimen import Specimen
from torchstone.training.evaluation import cross_entropy
from torchstone.training.fit import fit
from torchstone.workbench import Workbench


def law(n: int, seed: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))
    return x, (x[:, 0] * x[:, 1] > 0).long()


SHARE = float(law(200, 0)[1].double().mean())
GUESSING = min(SHARE, 1 - SHARE)


@pytest.fixture(scope="module")
def reading() -> Reading:
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 24), nn.ReLU(), nn.Linear(24, 2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    x, y = law(200, 0)
    sgd = torch.optim.SGD(model.parameters(), lr=0.2)
    fit(model, cross_entropy, x, y, optimizer=sgd, batch_size=32, epochs=60, generator=generator)
    specimen = Specimen(model, Classification(), (x, y), law(400, 1))
    return measure(BoundsTable(draws=4), Workbench.on(specimen))


def tables(reading: Reading) -> dict[str, Table]:
    return {one.title: one for one in reading.details if isinstance(one, Table)}


def numbers(cells: list[object]) -> list[float]:
    return [float(cell) for cell in cells if isinstance(cell, int | float)]


def test_sorted_and_complete(reading: Reading) -> None:
    table = tables(reading)["Bounds"]
    values = numbers([row[1] for row in table.rows])
    assert values == sorted(values)
    assert len(values) == 10
    for row in table.rows:
        value = numbers([row[1]])[0]
        expected = "vacuous" if value >= 1 else "less than guessing" if value >= GUESSING else "yes"
        assert row[4] == ("no bound" if "rate" in str(row[0]) else expected)
        assert row[6]


def test_the_value_is_the_tightest_from_training_data(reading: Reading) -> None:
    table = tables(reading)["Bounds"]
    own = [row for row in table.rows if row[5] == "training" and row[4] != "no bound"]
    assert reading.value == own[0][1]
    assert "PAC-Bayes" in reading.headline
    useful = sum(row[4] == "yes" for row in own)
    assert reading.headline.startswith(
        f"{useful} of {len(own)} bounds from training data say more than guessing"
    )
    assert reading.uncertainty is not None
    assert (reading.uncertainty.low, reading.uncertainty.high) == (0.0, reading.value)


def test_gaps_are_bounds_minus_the_training_error_and_times_the_measured_one(reading: Reading) -> None:
    rows = tables(reading)["Bounds"].rows
    shifts = {round(numbers([row[1]])[0] - numbers([row[2]])[0], 9) for row in rows}
    assert len(shifts) == 1  # the training error
    [curve] = [one for one in reading.details if isinstance(one, Curve)]
    gaps = [marker.value for marker in curve.markers if marker.label == "measured gap"]
    assert len(gaps) == 1
    for row in rows:
        gap, times = numbers([row[2], row[3]])
        assert times == pytest.approx(gap / gaps[0], rel=1e-9)


def test_the_plot_has_a_log_axis_and_both_lines(reading: Reading) -> None:
    [curve] = [one for one in reading.details if isinstance(one, Curve)]
    assert curve.y.log
    [line] = curve.lines
    assert len(line.y) == len(curve.ticks) == 10
    assert all(math.isfinite(y) and y > 0 for y in line.y)
    assert {marker.axis for marker in curve.markers} == {"y"}
    assert "vacuous above: error 1" in [marker.label for marker in curve.markers]


def test_it_says_how_to_read_a_vacuous_bound(reading: Reading) -> None:
    assert "How to read a vacuous bound" in reading.explanation
    assert any("on its own" in note for note in reading.notes)
    assert any("initial_state" in note for note in reading.notes)


def test_the_sizes_of_the_layers_stand_beside(reading: Reading) -> None:
    rows = tables(reading)["Sizes of the layers"].rows
    assert [row[:2] for row in rows] == [("0", 96), ("2", 48)]
    assert all(size > 0 and norm > 0 for size, norm in (numbers(list(row[2:])) for row in rows))


def test_infinite_bounds_are_in_the_table_and_off_the_plot() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2)).double()
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), (1e120, 0.0, 1e120, 0.0, 0.0, 0.0), strict=True):
            parameter.fill_(value)
        model[4].weight.fill_(1e120)  # pyright: ignore[reportCallIssue, reportArgumentType]
    x, y = law(50, 0)
    reading = measure(
        BoundsTable(draws=0), Workbench.on(Specimen(model, Classification(), (x.double() * 0, y)))
    )
    assert reading.verdict.level is Level.INFORMATIVE, reading.verdict.reason
    rows = {str(row[0]): row[1] for row in tables(reading)["Bounds"].rows}
    assert rows["weight size (l1)"] == math.inf
    assert rows["spectral margin, M = zero"] == rows["path norm (l1)"] == math.inf
    [curve] = [one for one in reading.details if isinstance(one, Curve)]
    assert len(curve.ticks) < len(rows)
    assert not any("gap" in marker.label for marker in curve.markers)  # no test data


def test_judge_and_settings() -> None:
    assert judge(0.3, guessing=0.5).level is Level.GOOD
    assert judge(0.5, guessing=0.5).level is Level.INFORMATIVE
    assert "0.5" in judge(0.5, guessing=0.5).threshold
    with pytest.raises(SettingError, match=r"bounds_table\.delta"):
        BoundsTable(delta=0.0)
    with pytest.raises(SettingError, match=r"bounds_table\.draws"):
        BoundsTable(draws=-1)
