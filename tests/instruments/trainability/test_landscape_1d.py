"""Lines from the initial weights and through the solution."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone import Recipe, Specimen
from torchstone.details import Curve, Scalars
from torchstone.errors import SettingError
from torchstone.instruments.measurement import measure
from torchstone.instruments.trainability.landscape_1d import Landscape1D, judge, judge_solution
from torchstone.landscape import Largest
from torchstone.objectives import Classification, Regression
from torchstone.reading import Level, Reading
from torchstone.testing import dense_hessian
from torchstone.workbench import Workbench


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def data(count: int = 60, seed: int = 0) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, 5, generator=seeded(seed), dtype=torch.float64)
    return x, x[:, :3].argmax(1)


def network(seed: int, *middle: nn.Module) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(5, 8), *middle, nn.Tanh(), nn.Linear(8, 3)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=seeded(seed), dtype=torch.float64))
    return model


def trained(model: nn.Module, steps: int = 200) -> dict[str, Tensor]:
    """Trains in place and returns the initial state."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer, (x, y) = torch.optim.SGD(model.parameters(), lr=0.5), data()
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return before


def line(reading: Reading, name: str, index: int = 0) -> dict[float, float]:
    curve = [detail for detail in reading.details if isinstance(detail, Curve)][index]
    [found] = [line for line in curve.lines if line.name == name]
    return dict(zip(found.x, found.y, strict=True))


def scalars(reading: Reading) -> dict[str, float]:
    [found] = [detail for detail in reading.details if isinstance(detail, Scalars)]
    return {item.name: item.value for item in found.items}


def measured(specimen: Specimen, **settings: Any) -> Reading:
    return measure(Landscape1D(**settings), Workbench.on(specimen))


def test_the_ends_are_the_losses_of_both_networks() -> None:
    model = network(1)
    state = trained(model)
    specimen = Specimen(model, Classification(), data(), data(40, 9), Recipe(initial_state=state))
    start = network(1)
    start.load_state_dict(state)
    for split, name in (("train", "train loss"), ("test", "test loss")):
        reading = measured(specimen)
        for end, where in ((start, 0.0), (model, 1.0)):
            expected = Specimen(end, Classification(), data(), data(40, 9)).risk(split)
            assert line(reading, name)[where] == pytest.approx(expected, abs=1e-10)
    assert min(line(reading, "train loss")) == -0.5
    assert max(line(reading, "train loss")) == 1.5


def test_an_easy_way_is_monotone_and_a_hill_is_found() -> None:
    model = network(1)
    specimen = Specimen(model, Classification(), data(), recipe=Recipe(initial_state=trained(model)))
    easy = measured(specimen)
    assert (easy.value, easy.verdict.level) == (0.0, Level.GOOD)
    assert "falls monotonically" in easy.headline
    # From the same function with its units turned round, the straight line leads through a worse network.
    mirrored = {name: -value if name != "2.bias" else value for name, value in model.state_dict().items()}
    with torch.no_grad():
        model[2].bias += 0.01 * torch.ones(3).double()  # pyright: ignore[reportOperatorIssue]
    mirrored["2.bias"] = mirrored["2.bias"] - torch.tensor([0.3, 0, 0]).double()
    hill = measured(Specimen(model, Classification(), data(), recipe=Recipe(initial_state=mirrored)))
    assert hill.verdict.level is Level.ATTENTION
    assert hill.remedies
    middle = nn.functional.cross_entropy(
        model[2].bias.mean() * 0 + (model[2].bias + mirrored["2.bias"]).expand(60, 3) / 2, data()[1]
    )
    assert line(hill, "train loss")[0.5] == pytest.approx(float(middle.detach()), rel=1e-9)
    assert hill.uncertainty is not None
    assert 0 < hill.uncertainty.low <= (hill.value or 0) <= hill.uncertainty.high


def test_the_parabola_of_a_quadratic_is_the_line() -> None:
    x, _ = data()
    model = nn.Linear(5, 2).double()
    for index, parameter in enumerate(model.parameters()):
        parameter.data = torch.randn(parameter.shape, generator=seeded(index), dtype=torch.float64)
    start = {name: value + 1 for name, value in model.state_dict().items()}
    specimen = Specimen(model, Regression(), (x, x[:, :2] ** 2), recipe=Recipe(initial_state=start))
    reading = measured(specimen)
    d = -torch.ones(12, dtype=torch.float64)
    assert scalars(reading)["curvature at the solution"] == pytest.approx(
        float(d @ dense_hessian(specimen) @ d), rel=1e-8
    )
    losses, parabola = line(reading, "train loss"), line(reading, "parabola of slope and curvature")
    shared = [place for place in losses if place in parabola and parabola[place] == parabola[place]]
    assert len(shared) >= 5
    assert [losses[p] for p in shared] == pytest.approx([parabola[p] for p in shared], rel=1e-8)


def test_statistics_are_recomputed_where_asked() -> None:
    model = network(1, nn.BatchNorm1d(8).double())
    state = trained(model)
    model.eval()
    specimen = Specimen(model, Classification(), data(), recipe=Recipe(initial_state=state))
    stored, anew = measured(specimen), measured(specimen, batch_norm="recomputed")
    assert line(stored, "train loss")[1.0] == pytest.approx(specimen.risk(), abs=1e-12)
    assert line(stored, "train loss")[0.5] != pytest.approx(line(anew, "train loss")[0.5], rel=1e-3)
    assert "Running statistics" in stored.notes[-1]
    assert "made anew at each point" in anew.notes[-1]


@pytest.mark.parametrize(
    ("state", "note"),
    [(None, "holds no initial_state"), ({"0.weight": torch.zeros(2)}, "does not fit: A state must hold")],
)
def test_without_a_start_lines_lead_through_the_solution(state: Any, note: str) -> None:
    model = network(1)
    specimen = Specimen(model, Classification(), data(), recipe=Recipe(initial_state=state))
    reading = measured(specimen)
    assert any(note in one for one in reading.notes)
    assert reading.verdict.level is Level.INFORMATIVE
    for index in (0, 1):
        assert line(reading, "train loss", index)[0.0] == pytest.approx(specimen.risk(), abs=1e-12)
    gradient = line(reading, "train loss", 1)
    assert reading.value == pytest.approx(specimen.risk() - min(gradient.values()))
    assert gradient[min(place for place in gradient if place > 0)] < gradient[0.0]


def test_frozen_parts_that_moved_leave_the_parabola_out() -> None:
    model = network(1)
    state = trained(model)
    model[0].weight.requires_grad_(False)  # pyright: ignore[reportCallIssue]
    reading = measured(Specimen(model, Classification(), data(), recipe=Recipe(initial_state=state)))
    assert any("No parabola" in note and "0.weight" in note for note in reading.notes)
    assert "curvature at the solution" not in scalars(reading)


def test_samples_are_said() -> None:
    model = network(1)
    specimen = Specimen(model, Classification(), data(), recipe=Recipe(initial_state=trained(model)))
    assert "30 of 60 train examples" in measured(specimen, examples=30).notes


@pytest.mark.parametrize(
    ("rise", "fall", "level"),
    [
        (Largest(0.0, 0.0, 0.1, -1), 1.0, Level.GOOD),
        (Largest(0.3, 0.0, 0.6, 2), 1.0, Level.GOOD),
        (Largest(0.04, 0.03, 0.05, 2), 1.0, Level.GOOD),
        (Largest(0.06, 0.03, 0.07, 2), 1.0, Level.ATTENTION),
        (Largest(float("inf"), 0.0, float("inf"), 2), 1.0, Level.GOOD),
        (Largest(0.0, 0.0, 0.0, -1), 0.0, Level.ATTENTION),
        (Largest(0.0, 0.0, 0.0, -1), float("nan"), Level.ATTENTION),
    ],
)
def test_the_verdict(rise: Largest, fall: float, level: Level) -> None:
    assert judge(rise, fall, 0.05).level is level


def test_the_verdict_through_a_solution_and_settings() -> None:
    assert "lower points nearby, by 50%" in judge_solution(Largest(0.5, 0.1, 0.6, 1), 1.0).reason
    assert judge_solution(Largest(0.0, 0.0, 0.0, -1), 1.0).reason == "no lower point on these lines"
    with pytest.raises(SettingError, match=r"landscape_1d.batch_norm must be one of stored, recomputed"):
        Landscape1D(batch_norm="none")
