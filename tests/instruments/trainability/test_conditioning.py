"""Means and scales of inputs and features, against NumPy and against gradient descent itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torchstone.details import Curve, Table
from torchstone.instruments.measurement import measure
from torchstone.instruments.trainability.conditioning import Conditioning, judge, scaling_of
from torchstone.objectives import Classification, Regression
from torchstone.reading import Level, Reading
from torchstone.specimen import Specimen
from torchstone.workbench import Workbench
from torchstone.workbench.input_moments import Moments, input_moments


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def filled(model: nn.Module, seed: int = 1) -> nn.Module:
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            parameter.copy_(draw(*parameter.shape, seed=seed + i) / parameter[0].numel() ** 0.5)
    return model


def read(x: Tensor, model: nn.Module | None = None, **settings: int | float) -> Reading:
    model = filled(nn.Linear(x.shape[1], 3)) if model is None else model
    specimen = Specimen(model, Classification(), (x.float(), torch.arange(len(x)) % 3))
    return measure(Conditioning(**settings), Workbench.on(specimen))  # pyright: ignore[reportArgumentType]


def rows(reading: Reading) -> dict[str, tuple[float, ...]]:
    table = next(detail for detail in reading.details if isinstance(detail, Table))
    return {str(row[0]): tuple(float(cell or 0) for cell in row[1:]) for row in table.rows}


def moments(x: Tensor) -> Moments:
    return Moments.of_rows(x, torch.arange(x.shape[1]))


def test_condition_numbers_against_numpy() -> None:
    x = draw(300, 6) @ draw(6, 6, seed=2) + 3 * draw(6, seed=3)
    found = scaling_of(moments(x), share=1.0, resolution=1e-7)
    assert found is not None
    data = x.numpy()
    slowest = np.linalg.eigvalsh(np.cov(data.T, bias=True))[0]
    assert found.raw == pytest.approx(np.linalg.eigvalsh(data.T @ data / 300)[-1] / slowest, rel=1e-9)
    assert found.centred == pytest.approx(np.linalg.cond(np.cov(data.T)), rel=1e-9)
    assert found.standard == pytest.approx(np.linalg.cond(np.corrcoef(data.T)), rel=1e-9)
    mean, variance = data.mean(0), data.var(0)
    assert found.spike == pytest.approx((mean**2).sum() / (data**2).mean(0).sum(), rel=1e-12)
    assert found.largest_shift == pytest.approx(np.abs(mean / variance**0.5).max(), rel=1e-12)
    assert found.spread == pytest.approx((variance.max() / variance.min()) ** 0.5, rel=1e-12)


def test_the_speed_up_is_that_of_gradient_descent() -> None:
    # Centred signs: covariance and correlations are exact, half of the features have a tenth of the spread.
    x = torch.tensor(np.kron(np.ones((2, 1)), _hadamard(8)[:, 1:5])) * torch.tensor([1.0, 1.0, 0.1, 0.1])
    shifted = x + torch.tensor([3.0, 0.0, 0.0, 0.0])
    found = scaling_of(moments(shifted), share=1.0, resolution=1e-7)
    assert found is not None
    assert found.raw == pytest.approx(10 / 0.01)
    assert found.centred == pytest.approx(100)
    assert found.standard == pytest.approx(1)
    assert found.centring == pytest.approx(_steps(shifted) / _steps(x), rel=0.01)


def _hadamard(n: int) -> np.ndarray:
    return np.ones((1, 1)) if n == 1 else np.kron(_hadamard(n // 2), np.array([[1.0, 1], [1, -1]]))


def _steps(x: Tensor) -> int:
    """Of gradient descent to a millionth in the slowest direction, at the largest eigenvalue's rate."""
    hessian = x.T @ x / len(x)
    rate = 1 / float(torch.linalg.eigvalsh(hessian)[-1])
    w, steps = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64), 0
    while float(w.norm()) > 1e-6:
        w, steps = w - rate * hessian @ w, steps + 1
    return steps


def test_centred_inputs_of_equal_scale_are_good_and_shifted_ones_poor() -> None:
    x = draw(600, 8)
    good, poor = read(x), read(x + 100)
    assert good.verdict.level is Level.GOOD
    assert not good.remedies
    assert good.value == pytest.approx(1, rel=0.1)
    assert poor.verdict.level is Level.POOR
    assert poor.remedies[0].claim == "centring_mends_conditioning"
    top = float(torch.linalg.eigvalsh(torch.cov(x.T))[-1])
    assert poor.value == pytest.approx(100**2 * 8 / top, rel=0.1)
    assert rows(poor)["inputs"][4] == pytest.approx(1, abs=1e-3)


def test_unequal_units_are_seen() -> None:
    x = draw(600, 8) * torch.tensor([100.0, *[1.0] * 7])
    reading = read(x)
    features, still, shift, spread, _, k, centring, standardising, whitening = rows(reading)["inputs"]
    assert (features, still) == (8, 0)
    assert spread == pytest.approx(100, rel=0.2)
    assert k == whitening > 5000
    assert centring == pytest.approx(1, abs=0.01)
    assert standardising == reading.value == pytest.approx(k, rel=0.6)
    assert shift < 0.2
    assert reading.verdict.level is Level.POOR


def test_features_that_never_vary_are_left_out_of_scaling_but_not_of_the_mean() -> None:
    x = draw(500, 5)
    x[:, 2] = 30.0
    found = rows(read(x))["inputs"]
    assert found[:2] == (4, 1)
    assert found[4] == pytest.approx(900 / 904, rel=1e-2)
    assert found[7] == pytest.approx(900, rel=0.2)


def test_channels_of_maps_and_shared_layers_against_dense_arithmetic() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.again = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 3, 1)
            self.head, self.unused = nn.Linear(3, 3), nn.Linear(7, 7)

        def forward(self, x: Tensor) -> Tensor:
            x = self.again(self.again(self.first(x).relu()).relu())
            return self.head(x.mean((2, 3)))

    net, x = filled(Net()).double(), draw(40, 2, 5, 5) + 1
    specimen = Specimen(net, Classification(), (x, torch.arange(40) % 3), batch_size=7)
    found = input_moments(specimen, layers=24, columns=10, generator=torch.Generator())
    assert list(found) == ["first", "again", "head"]
    first, again, *_ = net.children()
    with torch.no_grad():
        one = first(x).relu()
        two = again(one).relu()
    samples = torch.cat([one, two]).movedim(1, -1).reshape(-1, 3).numpy()
    assert np.allclose(found["again"].mean, samples.mean(0), rtol=1e-12)
    assert np.allclose(found["again"].covariance, np.cov(samples.T, bias=True), rtol=1e-10)
    assert found["again"].rows == 2 * 40 * 25
    assert found["head"].rows == 40


def test_means_of_a_hundred_million_cancel() -> None:
    x = draw(100, 4)
    specimen = Specimen(nn.Linear(4, 1).double(), Regression(), (x + 1e8, x[:, :1]), batch_size=9)
    [found] = input_moments(specimen, layers=24, columns=10, generator=torch.Generator()).values()
    assert torch.allclose(found.covariance, torch.cov(x.T, correction=0), rtol=1e-6, atol=1e-7)


def test_layers_are_judged_and_drawn() -> None:
    model = filled(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3)))
    with torch.no_grad():
        model[0].bias += 50.0  # pyright: ignore[reportIndexIssue]
    reading = read(draw(400, 8), model)
    assert set(rows(reading)) == {"inputs", "into 2", "into 4"}
    assert reading.verdict.level is Level.ATTENTION
    assert (reading.remedies[0].block, reading.remedies[0].trial) == ("torch.nn.BatchNorm1d", "norm=batch")
    assert "into 2" in reading.headline
    assert [detail.title for detail in reading.details if isinstance(detail, Curve)][1].startswith(
        "Condition"
    )


def test_subsets_of_features_are_said() -> None:
    reading = read(draw(100, 30), columns=8)
    assert rows(reading)["inputs"][0] == 8
    assert any("8 features drawn of inputs" in note for note in reading.notes)
    assert any("two rows a feature" in note for note in read(draw(20, 30)).notes)


def test_pixels_of_a_convolution_are_scaled_together() -> None:
    # A dark corner: as 16 features of unequal mean and spread, as one channel there is nothing to mend.
    x = draw(300, 1, 4, 4) * torch.linspace(0.01, 1, 16).view(4, 4)
    images = filled(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 3)))
    dense = filled(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)))
    assert rows(read(x, images))["inputs"][0] == 1
    assert read(x, images).value == pytest.approx(1, abs=0.01)
    assert rows(read(x, dense))["inputs"][0] == 16
    assert read(x, dense).verdict.level is not Level.GOOD


def test_tokens_leave_the_layers() -> None:
    model = nn.Sequential(nn.Embedding(11, 6), nn.Flatten(), filled(nn.Linear(24, 3)))
    with torch.no_grad():
        next(model.parameters()).copy_(draw(11, 6))
    x = torch.randint(11, (90, 4), generator=torch.Generator().manual_seed(0))
    specimen = Specimen(model, Classification(), (x, torch.arange(90) % 3))
    reading = measure(Conditioning(), Workbench.on(specimen))
    assert list(rows(reading)) == ["into 2"]
    assert reading.verdict.level is Level.GOOD


def test_nothing_that_varies_does_not_apply() -> None:
    reading = read(torch.ones(20, 4))
    assert reading.verdict.level is Level.NOT_APPLICABLE
    assert "vary" in reading.verdict.reason


@pytest.mark.parametrize(
    ("inputs", "layers", "level"),
    [
        (9.9, 99.0, Level.GOOD),
        (10.0, 1.0, Level.ATTENTION),
        (100.0, 1.0, Level.POOR),
        (math.inf, 1.0, Level.POOR),
        (1.0, 100.0, Level.ATTENTION),
        (math.nan, 5.0, Level.GOOD),
        (math.nan, 500.0, Level.ATTENTION),
        (5.0, math.nan, Level.GOOD),
    ],
)
def test_judging(inputs: float, layers: float, level: Level) -> None:
    verdict = judge(inputs, layers)
    assert verdict.level is level
    assert "LeCun" in verdict.source
