"""Curvatures against each other, on networks whose spectrum is known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone.details import Curve, Scalars, Table
from torchstone.instruments.measurement import measure
from torchstone.instruments.trainability.condition_number import (
    Block,
    Conditioning,
    ConditionNumber,
    imbalance_of,
    judge,
)
from torchstone.objectives import Classification, Regression
from torchstone.reading import Level, Reading
from torchstone.specimen import Specimen
from torchstone.testing import dense_hessian
from torchstone.workbench import Workbench


def least_squares(spectrum: list[float]) -> Specimen:
    """Linear regression without bias whose Hessian (of the mean squared error, 2/N X'X) has this spectrum."""
    n = len(spectrum)
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64)).Q
    x = (torch.tensor(spectrum, dtype=torch.float64) * n / 2).sqrt()[:, None] * basis.T
    model = nn.Linear(n, 1, bias=False).double()
    with torch.no_grad():
        model.weight.zero_()
    return Specimen(model, Regression(), (x, torch.ones(n, 1, dtype=torch.float64)))


def dense(scale: float = 1.0) -> Specimen:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(80, 5, generator=generator, dtype=torch.float64)
    first, last = nn.Linear(5, 6), nn.Linear(7, 3)
    model = nn.Sequential(first, nn.ReLU(), nn.Linear(6, 7), nn.ReLU(), last).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        for parameter in first.parameters():
            parameter.mul_(scale)
        last.weight.div_(scale)
    return Specimen(model, Classification(), (x, x[:, :3].argmax(1)))


def scalars(reading: Reading) -> dict[str, float]:
    return {i.name: i.value for one in reading.details if isinstance(one, Scalars) for i in one.items}


def examine(specimen: Specimen, **settings: Any) -> Reading:
    return measure(ConditionNumber(**settings), Workbench.on(specimen))


def test_a_known_spectrum() -> None:
    reading = examine(least_squares([4.0, 2.0, 1.0, 0.5, 0.5]))
    found = scalars(reading)
    assert reading.value == pytest.approx(5 * 4 / 8, rel=1e-9)
    assert found["largest over smallest eigenvalue"] == pytest.approx(8.0, rel=1e-9)
    assert found["error removed by a step of gradient descent, mean direction"] == pytest.approx(8 / 20)
    root = math.sqrt(2.5)
    assert found["error removed by a step with the best momentum"] == pytest.approx(
        1 - (root - 1) / (root + 1)
    )
    assert "is 8" in reading.explanation
    assert reading.verdict.level is Level.INFORMATIVE  # one layer


def test_the_predicted_factor_is_what_gradient_descent_does() -> None:
    """Along the eigenvector of mean curvature one step of 1/lambda_max shrinks the error by the predicted factor."""
    specimen = least_squares([4.0, 1.6, 1.6, 0.4, 0.4])  # mean 1.6
    predicted = 1 - scalars(examine(specimen))["error removed by a step of gradient descent, mean direction"]
    values, vectors = torch.linalg.eigh(dense_hessian(specimen))
    error = vectors[:, 2]
    assert float(values[2]) == pytest.approx(1.6)
    stepped = error - (vectors @ torch.diag(values) @ vectors.T @ error) / values[-1]
    assert float(stepped.norm()) == pytest.approx(predicted, rel=1e-9)


def test_singular_and_indefinite_hessians_are_said_to_be() -> None:
    singular = examine(least_squares([1.0, 0.5, 0.0]))
    assert scalars(singular)["largest over smallest eigenvalue"] == math.inf
    assert "singular up to rounding" in singular.explanation
    assert singular.value == pytest.approx(2.0)
    indefinite = examine(dense())
    assert "negative eigenvalues" in indefinite.explanation
    assert scalars(indefinite)["largest over smallest eigenvalue"] == math.inf


def test_blocks_are_those_of_the_dense_hessian() -> None:
    specimen = dense()
    reading = examine(specimen)
    hessian = dense_hessian(specimen)
    table = next(one for one in reading.details if isinstance(one, Table))
    start = 0
    for (name, size, largest, residual, trace, effective), expected in zip(
        table.rows, ("0", "2", "4"), strict=True
    ):
        assert isinstance(size, int)
        assert isinstance(largest, float)
        assert isinstance(residual, float)
        block = hessian[start : start + size, start : start + size]
        start += size
        top = float(torch.linalg.eigvalsh(block)[-1])
        assert name == expected
        assert largest == pytest.approx(top, rel=0.01)
        assert largest <= top * (1 + 1e-9)
        assert trace == pytest.approx(float(block.trace()), rel=1e-9)
        assert effective == pytest.approx(size * largest / float(block.trace()), rel=1e-9)
    values = torch.linalg.eigvalsh(hessian)
    assert reading.value == pytest.approx(float(len(values) * values[-1] / values.sum()), rel=1e-4)


def test_a_rescaled_layer_is_named_and_only_then() -> None:
    """(c W1, W3 / c) computes the same function, with the last layer c^2 times as sharp and the first as much flatter."""
    even, uneven = examine(dense(1.0)), examine(dense(30.0))
    assert even.verdict.level is Level.GOOD
    assert uneven.verdict.level is Level.ATTENTION
    assert "layer 4 is" in uneven.verdict.reason
    assert "as sharp as layer 0" in uneven.verdict.reason
    assert any("layer 0 could take steps" in remedy.action for remedy in uneven.remedies)
    assert not even.remedies
    assert examine(dense(30.0), imbalance=1e9).verdict.level is Level.GOOD


def test_layers_are_chosen_from_the_sharpest_to_the_flattest() -> None:
    reading = examine(dense(30.0), blocks=2)
    assert any(note.startswith("2 of 3 layers") for note in reading.notes)
    assert reading.verdict.level is Level.ATTENTION


def test_no_positive_mean_leaves_no_number() -> None:
    found = Conditioning(10, 1.0, 0.0, -5.0, 0.0, -3.0, 0.0, 1e-9)
    assert math.isnan(found.effective)
    assert found.condition == math.inf
    assert Conditioning(2, 4.0, 0.0, 1.0, 0.0, 5.0, 0.0, 1e-9).condition == 4.0
    assert not Conditioning(2, 4.0, 0.0, 1.0, 2.0, 5.0, 0.0, 1e-9).positive_definite  # within its residual


def test_the_bar_is_that_of_the_trace_and_the_residual() -> None:
    """n lambda / t over the trace's interval and the eigenvalue's: it covers the truth whenever both of them do."""
    found = Conditioning(100, 5.0, 0.1, -1.0, 0.0, 50.0, 4.0, 1e-9)
    bar = found.uncertainty
    assert bar is not None
    assert (bar.low, bar.high) == pytest.approx((100 * 5 / 54, 100 * 5.1 / 46))
    assert (bar.covers, bar.confidence) == ("probes and residual", 0.95)
    exact = Conditioning(100, 5.0, 0.1, -1.0, 0.0, 50.0, 0.0, 1e-9).uncertainty
    assert exact is not None
    assert (exact.low, exact.high, exact.covers) == (pytest.approx(10), pytest.approx(10.2), "residual")
    assert Conditioning(100, 5.0, 0.1, -1.0, 0.0, 50.0, 50.0, 1e-9).uncertainty is None  # the mean may be 0
    assert Conditioning(100, 5.0, 0.1, -1.0, 0.0, 50.0, math.inf, 1e-9).uncertainty is None


def test_an_estimated_trace_has_the_interval_of_its_probes() -> None:
    """A tanh network's trace needs probes when there are many parameters; their coverage is tested with the trace."""
    generator = torch.Generator().manual_seed(3)
    x: Tensor = torch.randn(30, 5, generator=generator, dtype=torch.float64)
    model = nn.Sequential(nn.Linear(5, 30), nn.Tanh(), nn.Linear(30, 3)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    specimen = Specimen(model, Classification(), (x, x[:, :3].argmax(1)))
    bench = Workbench.on(specimen)
    bar, trace = measure(ConditionNumber(), bench).uncertainty, bench.hessian_trace()
    values = torch.linalg.eigvalsh(dense_hessian(specimen))
    assert bar is not None
    assert trace.standard_error > 0
    low, high = trace.interval()
    assert len(values) * float(values[-1]) / bar.low == pytest.approx(high, rel=1e-4)
    assert len(values) * float(values[-1]) / bar.high == pytest.approx(low, rel=1e-4)
    assert low <= float(values.sum()) <= high


@pytest.mark.parametrize(("quotient", "level"), [(99.0, Level.GOOD), (101.0, Level.ATTENTION)])
def test_judge(quotient: float, level: Level) -> None:
    blocks = (Block("a", 3, 1.0, 0.0, 1.0), Block("b", 3, quotient, 0.0, 1.0), Block("c", 3, -1.0, 0.0, -1.0))
    assert judge(blocks, 100.0).level is level
    assert judge(blocks[:1], 100.0).level is Level.INFORMATIVE
    found = imbalance_of(blocks)
    assert found is not None
    assert (found[0], found[1].name, found[2].name) == (quotient, "b", "a")


def test_the_curve_shows_every_layer() -> None:
    curve = next(one for one in examine(dense()).details if isinstance(one, Curve))
    assert curve.ticks == ("0", "2", "4")
