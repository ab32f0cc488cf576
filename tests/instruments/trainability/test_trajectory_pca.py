"""Paths of training: those that head somewhere, those that wander, and recipes that keep none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from torchstone import Recipe, Specimen
from torchstone.details import Curve, Scalars, Surface
from torchstone.instruments.measurement import measure
from torchstone.instruments.trainability.trajectory_pca import TrajectoryPrincipalComponents, judge
from torchstone.landscape import gram_of_path, heading, random_walk_shares, trajectory_pca
from torchstone.objectives import Classification
from torchstone.reading import Level, Reading
from torchstone.workbench import Workbench


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def data() -> tuple[Tensor, Tensor]:
    x = torch.randn(50, 20, generator=seeded(0), dtype=torch.float64)
    return x, x[:, :3].argmax(1)


def states(path: Tensor) -> list[dict[str, Tensor]]:
    """Weights (3, 20) of a linear network along a path (T, 60)."""
    return [{"weight": point.view(3, 20).clone()} for point in path]


def specimen(path: Tensor, **recipe: Any) -> Specimen:
    model = nn.Linear(20, 3, bias=False).double()
    model.weight.data = path[-1].view(3, 20).clone()
    return Specimen(model, Classification(), data(), recipe=Recipe(**{"trajectory": states(path), **recipe}))


def measured(made: Specimen, **settings: Any) -> Reading:
    return measure(TrajectoryPrincipalComponents(**{"walks": 199, **settings}), Workbench.on(made))


def wander(points: int = 30, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(points, 60, generator=seeded(seed), dtype=torch.float64).cumsum(0)


def drift(points: int = 30) -> Tensor:
    way = torch.linspace(0, 1, points, dtype=torch.float64)[:, None] ** 0.5
    return way * torch.randn(60, generator=seeded(4), dtype=torch.float64) + 0.02 * wander(points)


def test_a_random_walk_is_told_from_training() -> None:
    wandering, training = measured(specimen(wander())), measured(specimen(drift()))
    assert wandering.verdict.level is Level.ATTENTION
    assert wandering.value == pytest.approx(float(random_walk_shares(30, 1)), abs=0.12)
    assert wandering.remedies
    assert training.verdict.level is Level.INFORMATIVE
    assert "kept a heading" in training.verdict.reason
    assert (training.value or 0) > 0.95


def test_random_walks_are_seldom_taken_for_training() -> None:
    kept = sum(
        measured(specimen(wander(10, seed)), grid=5, examples=2).verdict.level is Level.INFORMATIVE
        for seed in range(100)
    )
    assert kept <= 5 + 3 * (100 * 0.05 * 0.95) ** 0.5


def test_the_map_lies_in_the_plane_of_the_path() -> None:
    path = drift()
    reading = measured(specimen(path, trajectory_steps=range(0, 300, 10)), grid=5, examples=50)
    found = trajectory_pca(gram_of_path(path))
    [surface] = [detail for detail in reading.details if isinstance(detail, Surface)]
    assert surface.paths[0].x == pytest.approx(found.path[:, 0].tolist(), abs=1e-9)
    assert (surface.paths[0].x[-1], surface.paths[0].y[-1]) == pytest.approx((0, 0), abs=1e-9)
    axes = found.mixture @ (path - path[-1])
    corner = path[-1] + surface.x[1] * axes[0] + surface.y[3] * axes[1]
    x, y = data()
    expected = nn.functional.cross_entropy(x @ corner.view(3, 20).T, y)
    assert surface.z[3][1] == pytest.approx(float(expected), rel=1e-9)
    [curve] = [detail for detail in reading.details if isinstance(detail, Curve)]
    assert curve.lines[0].x[1] == 10
    assert curve.x.label == "updates"
    shares, headings = (detail for detail in reading.details if isinstance(detail, Scalars))
    ideal = next(item for item in shares.items if item.name == "first, ideal random walk")
    assert (ideal.value, ideal.unit) == (pytest.approx(100 * float(random_walk_shares(30, 1))), "%")
    assert headings.items[0].value == pytest.approx(heading(gram_of_path(path)))
    unnumbered = next(one for one in measured(specimen(path), grid=5).details if isinstance(one, Curve))
    assert unnumbered.x.label == "checkpoint"


def test_files_and_thinned_paths(tmp_path: Path) -> None:
    path = drift()
    files = []
    for index, state in enumerate(states(path)):
        files.append(tmp_path / f"{index}.safetensors")
        save_file(state, files[-1])
    assert measured(specimen(path, trajectory=files)).value == measured(specimen(path)).value
    thinned = measured(specimen(path), states=8)
    assert "8 of 30 checkpoints" in thinned.notes


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        ({"trajectory": ()}, "at least four checkpoints"),
        ({"trajectory": [{"weight": torch.zeros(3, 20)}] * 5}, "do not differ"),
        (
            {"trajectory": [{"weight": torch.zeros(3, 20)}] * 4 + [{}]},
            "checkpoint 4 of the trajectory does not fit",
        ),
        (
            {"trajectory": [{"weight": torch.full((3, 20), torch.nan)}] * 5},
            "checkpoint 0 of the trajectory is not finite",
        ),
    ],
)
def test_recipes_without_a_usable_path(recipe: dict[str, Any], reason: str) -> None:
    reading = measured(specimen(drift(), **recipe))
    assert reading.verdict.level is Level.NOT_APPLICABLE
    assert reason in reading.verdict.reason


def test_the_verdict() -> None:
    assert judge(0.9, 0.01, 0.01, 0.05).level is Level.INFORMATIVE
    assert "no more than such walks have" in judge(0.9, 0.3, 0.01, 0.05).reason
    assert judge(0.9, 0.3, 0.3, 0.05).level is Level.ATTENTION
