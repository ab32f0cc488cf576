"""Running statistics against actual ones, by hand and against NumPy."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from torchstone.details import Scalars, Table
from torchstone.instruments.measurement import measure
from torchstone.instruments.trainability.normalisation_check import NormalisationCheck, judge
from torchstone.landscape.batch_statistics import recomputed_statistics
from torchstone.objectives import Classification
from torchstone.reading import Level, Reading
from torchstone.recipe import Recipe
from torchstone.specimen import Specimen
from torchstone.workbench import Workbench
from torchstone.workbench.batch_norm_inputs import batch_norm_inputs


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def specimen(
    model: nn.Module, x: Tensor, size: int | None = None, batch: int = 256, mode: str = "eval"
) -> Specimen:
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            if parameter.ndim > 1:
                parameter.copy_(draw(*parameter.shape, seed=9 + i) / parameter[0].numel() ** 0.5)
    recipe = Recipe(batch_size=size)
    labels = torch.arange(len(x)) % 3
    return Specimen(model.double(), Classification(), (x, labels), recipe=recipe, batch_size=batch, mode=mode)  # pyright: ignore[reportArgumentType]


def read(*arguments: object, **options: object) -> Reading:
    return measure(NormalisationCheck(), Workbench.on(specimen(*arguments, **options)))  # pyright: ignore[reportArgumentType]


def rows(reading: Reading) -> dict[str, tuple[object, ...]]:
    table = next(detail for detail in reading.details if isinstance(detail, Table))
    return {str(row[0]): row[1:] for row in table.rows}


def vectors(offset: float = 0.0, spread: float = 1.0) -> tuple[nn.Sequential, Tensor]:
    """A layer whose running mean and variance are those of a standard normal variable, and data with others."""
    x = draw(400, 4)
    x = (x - x.mean(0)) / x.std(0, correction=0)
    return nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3)), x * spread + offset


def test_fitting_statistics_are_good() -> None:
    reading = read(*vectors(), 100)
    assert reading.value == pytest.approx(0, abs=1e-5)
    assert reading.verdict.level is Level.GOOD
    assert not reading.remedies
    channels, _, scale, noise, still = rows(reading)["0"]
    assert (channels, still) == (4, 0)
    assert scale == pytest.approx(1, abs=1e-4)
    assert noise == pytest.approx(0.1, rel=1e-4)


@pytest.mark.parametrize(
    ("offset", "spread", "level"),
    [(0.6, 1, "attention"), (4, 2, "poor"), (0, 2, "attention"), (0, 0.1, "poor")],
)
def test_shift_and_scale_by_hand(offset: float, spread: float, level: str) -> None:
    reading = read(*vectors(offset, spread), 100)
    assert reading.value == pytest.approx(offset / spread, abs=1e-3)
    assert rows(reading)["0"][2] == pytest.approx(max(spread, 1 / spread), rel=1e-2)
    assert reading.verdict.level == level
    assert reading.remedies[0].block == "torch.optim.swa_utils.update_bn"


def test_batches_of_two_are_noisy() -> None:
    reading = read(*vectors(), 2)
    assert reading.verdict.level is Level.ATTENTION
    assert rows(reading)["0"][3] == pytest.approx(0.5**0.5, rel=1e-4)
    assert {remedy.claim for remedy in reading.remedies} == {"batch_renormalisation_small_batches"}


def test_an_unknown_batch_size_is_said() -> None:
    reading = read(*vectors())
    assert rows(reading)["0"][3] is None
    assert any("batch size" in note for note in reading.notes)


def maps() -> tuple[nn.Sequential, Tensor]:
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Conv2d(3, 2, 3),
        nn.BatchNorm2d(2),
        nn.Flatten(),
        nn.Linear(8, 3),
    )
    return model, draw(60, 1, 6, 6) + draw(60, 1, 1, 1, seed=2)


@pytest.mark.parametrize("batch", [7, 60])
@pytest.mark.parametrize("mode", ["eval", "as_is"])
def test_statistics_of_maps_against_dense_arithmetic(batch: int, mode: str) -> None:
    model, x = maps()
    prepared = specimen(model.train(), x, batch=batch, mode=mode)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found, gap = batch_norm_inputs(prepared)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    with torch.no_grad():
        evaluated = model.eval()
        given = {"1": evaluated[:1](x), "4": evaluated[:4](x)}
    assert list(found) == ["1", "4"]
    for name, values in given.items():
        by_channel = values.transpose(0, 1).flatten(1)
        assert torch.allclose(found[name].mean, by_channel.mean(1))
        assert torch.allclose(found[name].variance, by_channel.var(1, correction=0))
        assert torch.allclose(found[name].spread, values.mean((2, 3)).var(0, correction=0))
    assert gap is not None
    assert gap.running == pytest.approx(
        float(nn.functional.cross_entropy(model.eval()(x), torch.arange(60) % 3).detach())
    )


def test_recomputed_statistics_close_the_gap() -> None:
    model, x = maps()
    ready = specimen(model, x)
    assert measure(NormalisationCheck(), Workbench.on(ready)).verdict.level is not Level.GOOD
    for _ in range(2):  # the second layer's inputs depend on the first's statistics
        model.load_state_dict(recomputed_statistics(ready), strict=False)
    reading = measure(NormalisationCheck(), Workbench.on(ready))
    assert reading.verdict.level is Level.GOOD
    assert reading.value == pytest.approx(0, abs=1e-3)
    [items] = [detail.items for detail in reading.details if isinstance(detail, Scalars)]
    assert items[0].value == pytest.approx(items[1].value, rel=1e-2)
    assert items[2].value < 0.02


def test_channels_that_hardly_vary_are_counted() -> None:
    model, x = vectors()
    x[:, 1] = 0.001 * x[:, 1]
    assert rows(read(model, x, 100))["0"][4] == 1


def test_statistics_that_are_not_numbers_are_poor() -> None:
    model, x = vectors()
    norm = model[0]
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.running_mean is not None
    norm.running_mean[0] = math.nan
    found, _ = batch_norm_inputs(specimen(model, x))
    assert math.isnan(float(found["0"].running_mean[0]))
    assert judge(math.nan, 1.0, 0.0).level is Level.POOR
    assert judge(0.0, math.inf, 0.0).level is Level.POOR


@pytest.mark.parametrize(
    "model",
    [
        nn.Linear(4, 3),
        nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 3)),
        nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 3)),
    ],
)
def test_networks_without_running_statistics_do_not_apply(model: nn.Module) -> None:
    reading = read(model, draw(40, 4))
    assert reading.verdict.level is Level.NOT_APPLICABLE
    assert "batch-normalisation layers with running statistics" in reading.verdict.reason


@pytest.mark.parametrize(
    ("shift", "scale", "noise", "level"),
    [
        (0.24, 1.4, 0.24, Level.GOOD),
        (0.25, 1.0, 0.0, Level.ATTENTION),
        (0.0, 1.5, 0.0, Level.ATTENTION),
        (0.0, 1.0, 0.25, Level.ATTENTION),
        (1.0, 1.0, 0.0, Level.POOR),
        (0.0, 3.0, 0.0, Level.POOR),
        (0.0, 1.0, math.nan, Level.GOOD),
    ],
)
def test_judging(shift: float, scale: float, noise: float, level: Level) -> None:
    verdict = judge(shift, scale, noise)
    assert verdict.level is level
    assert "Wu & He 2018" in verdict.source
