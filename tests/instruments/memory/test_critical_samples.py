"""Critical samples of networks whose distance to another decision is known, and along trainings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from torchstone.bounds.proportion import clopper_pearson
from torchstone.details import Curve, Scalars
from torchstone.errors import SettingError
from torchstone.instruments.measurement import measure
from torchstone.instruments.memory.critical_samples import CriticalSamples, judge, lowest
from torchstone.objectives import CausalLM, Classification, Regression
from torchstone.reading import Level
from torchstone.recipe import Recipe
from torchstone.specimen import Specimen
from torchstone.specimens.digits import build
from torchstone.testing.conformance import check_reading
from torchstone.workbench import Workbench


def gaussians(count: int, seed: int, width: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, width, generator=generator)
    return x, (x[:, 0] > 0).long()


def linear(weight: Tensor, bias: float = 0.2) -> nn.Linear:
    layer = nn.Linear(len(weight), 1)
    with torch.no_grad():
        layer.weight.copy_(weight[None])
        layer.bias.fill_(bias)
    return layer


@pytest.mark.parametrize("radius", [0.02, 0.1, 0.2])
def test_on_a_linear_network_it_is_the_share_within_r_times_the_l1_norm(radius: float) -> None:
    """One logit; agreement with |f| / |w|_1 <= r of at least 99%, the box of valid inputs included."""
    weight = torch.tensor([1.0, -0.5, 0.25, 2.0, -0.1, 1.0])
    (x, y), test = gaussians(500, 0), gaussians(400, 1)
    # Two rows far out, so that the range of the data does not cut the box.
    x = torch.cat([x, torch.full((1, 6), 50.0), torch.full((1, 6), -50.0)])
    y = torch.cat([y, torch.tensor([1, 0])])
    specimen = Specimen(linear(weight), Classification(), (x, y), test)
    reading = measure(CriticalSamples(radius=radius, examples=400), Workbench.on(specimen))
    scale = float((x.double() - x.double().mean(0)).square().mean().sqrt())
    score = (test[0].double() @ weight.double() + 0.2).abs()
    exact = (score / weight.double().abs().sum() <= radius * scale).double().mean()
    assert 0 < float(exact) < 1
    assert reading.value == pytest.approx(float(exact), abs=0.01)
    assert reading.uncertainty is not None
    interval = clopper_pearson(round((reading.value or 0) * 400), 400)
    assert (reading.uncertainty.low, reading.uncertainty.high) == (interval.low, interval.high)
    check_reading(reading, "linear")


def test_memorised_wrong_labels_make_samples_critical_and_the_ratio_climb() -> None:
    clean, noisy = (
        measure(CriticalSamples(), Workbench.on(build(label_noise=noise))) for noise in (0.0, 0.3)
    )
    for reading in (clean, noisy):
        check_reading(reading, "digits")
    assert clean.uncertainty is not None
    assert noisy.uncertainty is not None
    assert noisy.uncertainty.low > clean.uncertainty.high
    assert clean.verdict.level is Level.GOOD
    assert noisy.verdict.level is Level.ATTENTION
    [curve] = [detail for detail in noisy.details if isinstance(detail, Curve)]
    [line] = curve.lines
    assert len(line.x) == 6
    assert line.x[0] == 0
    assert line.y[-1] > 1.5 * min(line.y[1:])


def test_a_network_that_says_one_class_everywhere_has_none() -> None:
    specimen = Specimen(linear(torch.zeros(6), 3.0), Classification(), gaussians(50, 0))
    reading = measure(CriticalSamples(), Workbench.on(specimen))
    assert reading.value == 0
    assert reading.verdict.level is Level.INFORMATIVE  # no checkpoints
    [scalars] = [detail for detail in reading.details if isinstance(detail, Scalars)]
    assert [item.name for item in scalars.items] == ["training examples"]


def test_the_same_seed_gives_the_same_reading() -> None:
    bench = lambda: Workbench.on(build(label_noise=0.1, epochs=3))
    first, again = (measure(CriticalSamples(examples=50), bench()).without_cost() for _ in range(2))
    assert first == again


def trajectory(*states: object) -> Specimen:
    recipe = Recipe(trajectory=states, trajectory_steps=tuple(range(len(states))))  # pyright: ignore[reportArgumentType]
    return Specimen(linear(torch.ones(6)), Classification(), gaussians(60, 0), recipe=recipe)


def test_checkpoints_that_do_not_fit_are_said(tmp_path: Path) -> None:
    fine = {"weight": torch.ones(1, 6), "bias": torch.zeros(1)}
    for wrong in ({"weight": torch.ones(1, 5)}, str(tmp_path / "missing.safetensors")):
        reading = measure(CriticalSamples(), Workbench.on(trajectory(fine, wrong)))
        assert reading.value is not None
        assert any("Not followed along the training" in note for note in reading.notes)


def test_checkpoints_are_what_they_hold() -> None:
    """Networks of other weights, whose ratios are those of specimens of their own."""
    states = [
        {"weight": w * torch.ones(1, 6), "bias": torch.tensor([b])}
        for w, b in ((1.0, 0.0), (1.0, 3.0), (1.0, 0.5))
    ]
    reading = measure(CriticalSamples(examples=120), Workbench.on(trajectory(*states)))
    [curve] = [detail for detail in reading.details if isinstance(detail, Curve)]
    for value, state in zip(curve.lines[0].y, states, strict=True):
        alone = Specimen(linear(torch.ones(6), float(state["bias"])), Classification(), gaussians(60, 0))
        assert value == measure(CriticalSamples(examples=60), Workbench.on(alone)).value
    none = measure(CriticalSamples(checkpoints=0), Workbench.on(trajectory(*states)))
    assert not any(isinstance(detail, Curve) for detail in none.details)


def test_the_model_and_its_recipe_stay_as_they_are() -> None:
    states = [{"weight": torch.ones(1, 6), "bias": torch.zeros(1)}] * 3
    specimen = trajectory(*states)
    recipe, before = specimen.recipe, specimen.model.weight.detach().clone()  # pyright: ignore[reportCallIssue]
    measure(CriticalSamples(), Workbench.on(specimen))
    assert specimen.recipe is recipe
    assert recipe is not None
    assert recipe.initial_state is None
    assert torch.equal(specimen.model.weight, before)  # pyright: ignore[reportArgumentType]


def test_the_judgement_needs_intervals_that_are_apart() -> None:
    few, many = clopper_pearson(10, 100), clopper_pearson(30, 100)
    assert judge(many, None).level is Level.INFORMATIVE
    assert judge(many, few).level is Level.ATTENTION
    assert judge(clopper_pearson(15, 100), few).level is Level.GOOD
    assert judge(few, many).level is Level.GOOD
    mask = lambda count: torch.arange(100) < count
    # The state before training does not count.
    assert lowest([(0.0, mask(0)), (1.0, mask(10)), (2.0, mask(30))]) == few
    assert lowest([(0.0, mask(0))]) is None


def test_what_it_does_not_apply_to() -> None:
    x = torch.ones(5, 2)
    regression = Specimen(nn.Linear(2, 1), Regression(), (x, torch.ones(5, 1)))
    tokens = Specimen(
        nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 4)),
        CausalLM(),
        torch.randint(4, (5, 6), generator=torch.Generator()),
    )
    for specimen in (regression, tokens):
        assert measure(CriticalSamples(), Workbench.on(specimen)).verdict.level is Level.NOT_APPLICABLE


@pytest.mark.parametrize(
    ("setting", "value"),
    [("radius", 0.0), ("radius", float("nan")), ("examples", 0), ("steps", 0), ("checkpoints", -1)],
)
def test_bad_settings_are_named(setting: str, value: float) -> None:
    with pytest.raises(SettingError, match=f"critical_samples.{setting}"):
        replace(CriticalSamples(), **{setting: value})  # pyright: ignore[reportArgumentType]
