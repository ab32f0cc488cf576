"""The plane around a solution: invariances, basins, and the spread of the rise."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone import Specimen
from torchstone.details import Surface
from torchstone.instruments.measurement import measure
from torchstone.instruments.trainability.landscape_2d import Landscape2D, judge
from torchstone.landscape import Basin
from torchstone.objectives import Classification, Objective, Regression
from torchstone.reading import Level, Reading
from torchstone.workbench import Workbench


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def data() -> tuple[Tensor, Tensor]:
    x = torch.randn(50, 5, generator=seeded(0), dtype=torch.float64)
    return x, x[:, :3].argmax(1)


def relu_network() -> Any:
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    with torch.no_grad():
        for index, parameter in enumerate(model.parameters()):
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=seeded(index), dtype=torch.float64))
    return model


def measured(specimen: Specimen, seed: int = 0, **settings: Any) -> Reading:
    return measure(Landscape2D(**{"grid": 7, **settings}), Workbench.on(specimen, seed=seed))


def surface(reading: Reading) -> Surface:
    return next(detail for detail in reading.details if isinstance(detail, Surface))


def test_the_middle_is_the_network_and_a_rescaled_twin_looks_the_same() -> None:
    model = relu_network()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin[0].weight *= 20
        twin[0].bias *= 20
        twin[2].weight /= 20
    own, other = (measured(Specimen(net, Classification(), data())) for net in (model, twin))
    assert surface(own).z[3][3] == pytest.approx(Specimen(model, Classification(), data()).risk(), rel=1e-12)
    for row, same in zip(surface(own).z, surface(other).z, strict=True):
        assert row == pytest.approx(same, rel=1e-6)
    assert own.value == pytest.approx(other.value, rel=1e-6)


def test_the_same_seed_gives_the_same_plane_and_another_another() -> None:
    specimen = Specimen(relu_network(), Classification(), data())
    assert surface(measured(specimen)) == surface(measured(specimen))
    assert surface(measured(specimen)).z != surface(measured(specimen, seed=1)).z


def test_the_error_bar_covers_the_mean_over_directions() -> None:
    """Against the mean over 1,000 directions, in 100 measurements with four each."""
    specimen = Specimen(relu_network(), Classification(), data())
    truth = measured(specimen, grid=5, directions=1000, seed=10_000).value
    assert truth is not None
    covered = 0
    for seed in range(100):
        bar = measured(specimen, grid=5, directions=4, seed=seed).uncertainty
        assert bar is not None
        covered += bar.low <= truth <= bar.high
    assert covered >= 95 - 3 * (100 * 0.95 * 0.05) ** 0.5


class Wavy(Objective):
    """A loss with basins all over the plane."""

    def outputs(self, model: nn.Module, batch: Any) -> Tensor:
        return model(batch)

    def losses(self, outputs: Tensor, batch: Any) -> Tensor:
        return 1 - torch.cos(5 * outputs).mean(1) + 0.001 * batch[:, 0]


def test_a_second_basin_is_found() -> None:
    model = nn.Linear(2, 2, bias=False).double()
    model.weight.data = torch.tensor([[2.0, 0.0], [0.0, 2.0]]).double() * 3.1415926 / 5
    x = torch.ones(30, 2).double() + 0.001 * torch.randn(30, 2, generator=seeded(0), dtype=torch.float64)
    reading = measured(Specimen(model, Wavy(), x), grid=41, reach=2.0)
    assert reading.verdict.level is Level.ATTENTION
    assert reading.remedies
    bowl = measured(Specimen(relu_network(), Classification(), data()), reach=0.2)
    assert bowl.verdict.level is Level.GOOD
    assert "has one basin" in bowl.headline


def test_only_vectors_move_entry_by_entry() -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.tensor([1.0, 2.0, -1.0]).double())

        def forward(self, x: Tensor) -> Tensor:
            return x[:, :3] * self.gain

    assert (measured(Specimen(Scale(), Classification(), data())).value or 0) != 0


class Gain(nn.Module):
    def __init__(self, gain: list[float]) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain).double())

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :2] * self.gain


def test_two_weights_span_a_plane_and_one_does_not() -> None:
    x, _ = data()
    for seed in range(4):  # with two weights every second draw lies on the line of the first one
        bench = Workbench.on(Specimen(Gain([1.0, -2.0]), Regression(), (x, x[:, :2])), seed=seed)
        heights = torch.tensor(surface(measure(Landscape2D(grid=5), bench)).z)
        assert float(torch.linalg.matrix_rank(heights)) > 1
    lone = measured(Specimen(Gain([3.0]), Regression(), (x, x[:, :2])))
    assert lone.verdict.reason == "needs two weights that can move, to span a plane"


def test_a_lower_loss_around_is_said_to_be_lower() -> None:
    """A weight of 4 that should be 0: the loss is (4 + t)^2 along it, and capped from above it falls on average."""

    class Capped(Regression):
        def losses(self, outputs: Tensor, batch: Any) -> Tensor:
            return super().losses(outputs, batch).clamp(max=1.0)

    ones = torch.ones(20, 1).double()
    model = Gain([1.0, 1.0])
    reading = measured(
        Specimen(model, Capped(), (torch.cat([ones, ones], 1), 0 * torch.cat([ones, ones], 1)))
    )
    assert (reading.value or 0) < 0
    assert "is lower by" in reading.headline


def test_frozen_parameters_stay_put() -> None:
    model = relu_network()
    for layer in (0, 2):
        model[layer].weight.requires_grad_(False)
        model[layer].bias.requires_grad_(False)
    heights = surface(measured(Specimen(model, Classification(), data()))).z
    with torch.no_grad():  # only the last layer moves: the loss is convex in it
        assert measured(Specimen(model, Classification(), data())).headline.endswith(
            "is convex in 100% of its points."
        )
    assert len({round(z, 9) for row in heights for z in row}) > 10


def test_recomputed_statistics_change_the_plane() -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).double()
    with torch.no_grad():
        for index, parameter in enumerate(model.parameters()):
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=seeded(index), dtype=torch.float64))
    specimen = Specimen(model.eval(), Classification(), data())
    stored, anew = measured(specimen), measured(specimen, batch_norm="recomputed")
    assert surface(stored).z != surface(anew).z
    assert "kept" in stored.notes[-1]


def test_the_verdict() -> None:
    assert judge(None, 0.9).level is Level.GOOD
    assert judge(Basin(0.0, 1.0, (0, 0), (1, 1), 0), 0.9).level is Level.ATTENTION
