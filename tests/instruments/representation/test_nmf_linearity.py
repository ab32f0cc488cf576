"""Parts of a class: planted activations, replacing against running the layers by hand, and awkward networks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone.details import Curve, Table
from torchstone.errors import SettingError
from torchstone.instruments.measurement import measure
from torchstone.instruments.representation.nmf_linearity import NmfLinearity, judge
from torchstone.kernels.nmf import truncated_svd
from torchstone.objectives import Classification
from torchstone.reading import Level, Reading
from torchstone.specimen import Specimen
from torchstone.workbench import Workbench
from torchstone.workbench.rank_curve import RankCurve, principal_parts, random_units, rank_curve
from torchstone.workbench.replacing import Activations, nonnegative_activations, scores_replacing


def images(count: int = 60) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    return x, torch.arange(count) % 3


class Twice(nn.Module):
    """One ReLU module used twice, on a map and on a vector, and one in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.middle, self.head = nn.Conv2d(1, 4, 3), nn.Linear(64, 12), nn.Linear(12, 3)
        self.relu, self.last = nn.ReLU(), nn.ReLU(inplace=True)
        generator = torch.Generator().manual_seed(1)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv(x))
        x = self.relu(self.middle(x.flatten(1)))
        return self.head(self.last(x * 2))


def specimen(model: nn.Module | None = None, **options: Any) -> Specimen:
    return Specimen(model or Twice(), Classification(), images(), **options).prepared()


def test_activations_are_those_of_running_the_layers_by_hand() -> None:
    one = specimen(batch_size=7)
    model: Any = one.model
    with torch.no_grad():
        maps = model.conv(images()[0]).relu()
        vectors = model.middle(maps.flatten(1)).relu()
    found = nonnegative_activations(one)
    assert [layer.name for layer in found] == ["relu", "relu#2", "last"]
    assert [layer.axis for layer in found] == [1, 1, 1]
    for layer, expected in zip(found, (maps, vectors, 2 * vectors), strict=True):
        torch.testing.assert_close(layer.values, expected)
    rows = torch.tensor([3, 5])
    matrix = found[0].matrix(rows)
    assert matrix.shape == (2 * 16, 4)
    torch.testing.assert_close(matrix[16 + 5], maps[5, :, 1, 1])  # position 5 of 4 x 4 of the second example
    torch.testing.assert_close(found[0].with_matrix(rows, matrix), maps[rows])


def test_replacing_a_call_changes_what_follows_and_nothing_else() -> None:
    one = specimen(batch_size=7)
    model: Any = one.model
    given = torch.rand(60, 12, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = model.head((2 * given).relu())
        plain = model(images()[0])
    torch.testing.assert_close(scores_replacing(one, "relu#2", given).float(), expected)
    same = next(layer.values for layer in nonnegative_activations(one) if layer.name == "relu")
    torch.testing.assert_close(scores_replacing(one, "relu", same).float(), plain)
    assert not any(module._forward_hooks for module in model.modules())


def test_the_curve_by_hand() -> None:
    """Principal parts of a layer that the head reads: the accuracy at each rank is that of the truncated matrices."""
    generator = torch.Generator().manual_seed(3)
    values = torch.rand(30, 8, generator=generator)
    labels, head = torch.arange(30) % 3, torch.randn(8, 3, generator=generator)
    layer = Activations("x", values, 1)
    found = rank_curve(layer, labels, lambda v: v @ head, principal_parts)
    assert found.ranks == (1, 2, 4, 8)
    for column, rank in enumerate(found.ranks):
        for c in range(3):
            reduced = truncated_svd(values[labels == c], rank).float()
            right = float(((reduced @ head).argmax(1) == c).double().mean())
            assert float(found.accuracy[c, column]) == pytest.approx(right)
    assert float(found.errors[-1]) == 0
    assert bool((found.errors.diff() < 0).all())
    steps = found.accuracy
    areas = (steps[:, 0] / 2 + steps[:, 1] + steps[:, 2] + steps[:, 3] / 2) / 3  # log2 1, 2, 4, 8 are 0 to 3
    torch.testing.assert_close(found.areas, areas)


def test_one_part_is_enough_where_a_class_is_one_direction() -> None:
    labels = torch.arange(40) % 4
    strengths = 1 + torch.rand(40, generator=torch.Generator().manual_seed(4))
    layer = Activations("x", torch.eye(4)[labels] * strengths[:, None], 1)
    found = rank_curve(layer, labels, lambda v: v, principal_parts)
    assert found.areas.tolist() == [1.0] * 4


def test_parts_are_needed_where_every_example_has_its_own() -> None:
    """Eight examples a class on eight units of their own, equally strong: k parts serve k examples of a class."""
    labels = torch.arange(16) // 8
    layer = Activations("x", torch.eye(16), 1)
    answer = lambda v: torch.stack([v[:, :8].sum(1), v[:, 8:].sum(1)], 1) - torch.tensor([0.0, 0.5])
    found = rank_curve(layer, labels, answer, principal_parts)
    assert found.ranks == (1, 2, 4, 8)
    assert found.accuracy[1].tolist() == pytest.approx([1 / 8, 2 / 8, 4 / 8, 1.0])


def test_random_units_are_counted() -> None:
    keep = random_units(torch.Generator().manual_seed(0))
    kept = keep(torch.ones(6, 20), 3)
    assert int(kept[0].sum()) == 10
    assert float(kept.std(0).max()) == 0
    assert int(keep(torch.ones(64, 4), 1)[0].sum()) == 1


def test_a_single_rank_has_an_area() -> None:
    curve = RankCurve((1,), torch.tensor([[0.5], [1.0]], dtype=torch.float64), torch.zeros(1))
    assert curve.areas.tolist() == [0.5, 1.0]


def test_reading_of_a_network() -> None:
    bench = Workbench.on(specimen())
    found: Reading = measure(NmfLinearity(classes=3), bench)
    assert found.verdict.level is Level.INFORMATIVE
    [table] = [detail for detail in found.details if isinstance(detail, Table)]
    assert [row[0] for row in table.rows] == ["relu", "relu#2", "last"]
    assert found.value == pytest.approx(min(row[3] for row in table.rows))  # pyright: ignore[reportArgumentType]
    assert len([detail for detail in found.details if isinstance(detail, Curve)]) == 2
    assert found.uncertainty is not None
    assert found.value is not None
    assert 0 <= found.uncertainty.low <= found.value <= found.uncertainty.high <= 1


def test_does_not_apply() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(36, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x.flatten(1))

    reading = measure(NmfLinearity(), Workbench.on(Specimen(Functional(), Classification(), images())))
    assert reading.verdict.level is Level.NOT_APPLICABLE
    assert "never negative" in reading.verdict.reason
    x = images()[0]
    few = Specimen(Twice(), Classification(), (x, (torch.arange(60) == 5).long()))
    assert "two classes" in measure(NmfLinearity(), Workbench.on(few)).verdict.reason


def test_labels_must_match() -> None:
    layer = Activations("x", torch.ones(4, 2), 1)
    with pytest.raises(SettingError, match="one label for each row"):
        rank_curve(layer, torch.zeros(3), lambda v: v, principal_parts)


def test_judgement_and_settings() -> None:
    assert judge(0.3).level is Level.INFORMATIVE
    assert judge(math.pi).threshold
    assert judge(0.3).source
    with pytest.raises(SettingError, match=r"nmf_linearity\.classes"):
        NmfLinearity(classes=1)
