"""The trace of the Hessian, exact or with its error bar."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone.details import Scalars, Table
from torchstone.errors import SettingError
from torchstone.instruments.measurement import measure
from torchstone.instruments.trainability.hessian_trace import HessianTrace
from torchstone.objectives import Classification, Regression
from torchstone.reading import Level, Reading
from torchstone.specimen import Specimen
from torchstone.testing import dense_hessian
from torchstone.workbench import Workbench


def images(count: int = 20) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, 1, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x, x.flatten(1)[:, :3].argmax(1)


def convolutional(activation: nn.Module) -> nn.Module:
    layers = (
        nn.Conv2d(1, 3, 3),
        nn.BatchNorm2d(3),
        activation,
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(12, 3),
    )
    model = nn.Sequential(*layers).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / 2)
    return model


def trace(model: nn.Module, seed: int = 0, **settings: float) -> tuple[Reading, Specimen]:
    specimen = Specimen(model, Classification(), images())
    return measure(HessianTrace(**settings), Workbench.on(specimen, seed=seed)), specimen  # pyright: ignore[reportArgumentType]


def test_it_is_exact_where_the_network_is_piecewise_linear() -> None:
    reading, specimen = trace(convolutional(nn.ReLU()))
    diagonal = dense_hessian(specimen).diag()
    assert reading.value == pytest.approx(float(diagonal.sum()), rel=1e-12)
    table = next(detail for detail in reading.details if isinstance(detail, Table))
    start = 0
    for name, size, value, error, how in table.rows:
        assert isinstance(size, int)
        assert value == pytest.approx(float(diagonal[start : start + size].sum()), rel=1e-10, abs=1e-12), name
        assert (error, how) == (0, "exact")
        start += size
    assert reading.verdict.level is Level.INFORMATIVE
    assert "exactly" in reading.headline


def test_a_curved_networks_bar_is_made_of_probes_and_examples() -> None:
    """That either part covers as often as it says is tested where it is computed, and below."""
    bench = Workbench.on(trace(convolutional(nn.Tanh()))[1])
    reading = measure(HessianTrace(probes=12, tolerance=1e-6), bench)
    found = bench.hessian_trace(1e-6, 12)
    assert "probes" in reading.headline
    assert (
        reading.value == found.value != pytest.approx(float(dense_hessian(bench.specimen).trace()), rel=1e-6)
    )
    assert reading.uncertainty is not None
    assert reading.uncertainty.covers == "examples and probes"
    assert reading.uncertainty.standard_error == pytest.approx(
        math.hypot(found.standard_error, found.example_standard_error)
    )
    assert min(found.standard_error, found.example_standard_error) > 0
    [listed] = [
        item
        for one in reading.details
        if isinstance(one, Scalars)
        for item in one.items
        if item.low is not None
    ]
    assert (listed.low, listed.high) == found.interval()


def test_the_error_bar_covers_the_draw_of_examples() -> None:
    """Linear least squares: tr H = 2 E ||x||^2 = 2 d for standard normal inputs, and 2 ||x_n||^2 for one example."""
    draws = torch.randn(2000, 60, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    each = 2 * draws.square().sum(2)
    means, reaches = each.mean(1), 1.96 * each.std(1) / 60**0.5
    for x, mean, reach in zip(draws[:3], means, reaches, strict=False):
        bar = measure(
            HessianTrace(),
            Workbench.on(Specimen(nn.Linear(4, 1, bias=False).double(), Regression(), (x, x[:, :1]))),
        ).uncertainty
        assert bar is not None
        assert (bar.low, bar.high) == pytest.approx((float(mean - reach), float(mean + reach)), rel=1e-4)
    covered = float(((means - 8).abs() <= reaches).double().mean())
    # 95% less what the skewness of chi-square costs 60 examples, about 1%; standard error 0.5%.
    assert 0.92 < covered < 0.965


def test_a_tied_network_is_not_called_exact() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.Linear(36, 36), nn.Linear(36, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(self.layer(torch.relu(self.layer(x.flatten(1))))))

    model = Tied().double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / 6)
    reading, specimen = trace(model)
    truth = float(dense_hessian(specimen).diag().sum())
    assert "exactly" not in reading.headline
    assert reading.uncertainty is not None
    assert reading.value is not None
    assert abs(reading.value - truth) < 4 * (reading.uncertainty.standard_error or 0.0)


def test_coupled_examples_have_an_error_bar_of_probes_alone() -> None:
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(36, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)
    ).double()
    specimen = Specimen(model.train(), Classification(), images(), mode="as_is", batch_size=20)
    reading = measure(HessianTrace(probes=10), Workbench.on(specimen))
    assert reading.uncertainty is not None
    assert (reading.uncertainty.covers, reading.uncertainty.method) == ("probes", "Student's t, 95%")
    assert "not the draw of examples" in reading.explanation
    assert "The tolerance was not reached within the probes allowed." in reading.notes


def test_what_was_formed_or_differenced_is_said() -> None:
    class Custom(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x.tanh()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
            return gradient * (1 - ctx.saved_tensors[0].tanh() ** 2)

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.bend = nn.Linear(36, 4), nn.Bilinear(4, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            made: Any = Custom.apply(self.layer(x.flatten(1)))
            return self.bend(made, x.flatten(1)[:, :4])

    reading, _ = trace(Odd().double())
    assert (
        "Hessian products by central differences (the second derivative of Custom is incomplete)."
        in reading.notes
    )

    class Bent(Odd):
        def forward(self, x: Tensor) -> Tensor:
            h = self.layer(x.flatten(1))
            return self.bend(h, x.flatten(1)[:, :4])

    reading, _ = trace(Bent().double())
    assert reading.notes == ("Gradients of single examples had to be formed for bend.weight.",)
    assert "exactly" in reading.headline


def test_bad_settings_are_named() -> None:
    with pytest.raises(SettingError, match=r"hessian_trace\.tolerance"):
        HessianTrace(tolerance=-1.0)
    with pytest.raises(SettingError, match=r"hessian_trace\.probes"):
        HessianTrace(probes=1)
