"""The whole spectrum: shares, outliers and density against dense eigenvalues."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone.details import Curve, Scalars, Spectrum
from torchstone.instruments.measurement import measure
from torchstone.instruments.trainability.condition_number import ConditionNumber
from torchstone.instruments.trainability.negative_curvature import NegativeCurvature
from torchstone.instruments.trainability.spectrum import SpectrumOfHessian, judge, outliers_of
from torchstone.instruments.trainability.top_eigenpairs import TopEigenpairs
from torchstone.linalg import Eigenpairs, count_outliers
from torchstone.objectives import Classification, Regression
from torchstone.reading import Level, Reading
from torchstone.specimen import Specimen
from torchstone.testing import dense_hessian
from torchstone.workbench import Workbench
from torchstone.workbench.curvature import PROBES, STEPS, density_of_spectrum
from torchstone.workbench.spectral_shares import shares_by_sign


def classifier(hidden: int, inputs: int = 5, seed: int = 0) -> Specimen:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(80, inputs, generator=generator, dtype=torch.float64)
    model = nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, 3)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(noise / parameter.shape[-1] ** 0.5)
    return Specimen(model, Classification(), (x, x[:, :3].argmax(1)))


def least_squares(spectrum: Tensor) -> Specimen:
    """Linear regression whose Hessian, 2/N X'X, has this spectrum."""
    n = len(spectrum)
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64)).Q
    x = (spectrum * n / 2).sqrt()[:, None] * basis.T
    return Specimen(nn.Linear(n, 1, bias=False).double(), Regression(), (x, torch.ones(n, 1).double()))


def scalars(reading: Reading) -> dict[str, Any]:
    return {item.name: item for one in reading.details if isinstance(one, Scalars) for item in one.items}


def test_a_small_network_is_exact() -> None:
    case = classifier(8)
    reading = measure(SpectrumOfHessian(resolution=1e-3), Workbench.on(case))
    values = torch.linalg.eigvalsh(dense_hessian(case))
    reach = 1e-3 * float(values.abs().max())
    found = scalars(reading)
    negative = found["share of negative eigenvalues"]
    assert negative.value == pytest.approx(float((values < -reach).double().mean()), abs=1e-12)
    assert (negative.low, negative.high) == (negative.value, negative.value)
    assert negative.value > 0
    parts = [found[f"share of {kind}"].value for kind in ("negative eigenvalues", "positive eigenvalues")]
    assert sum(parts) + found["share of eigenvalues that are zero"].value == pytest.approx(1.0)
    assert found["trace by quadrature"].value == pytest.approx(float(values.sum()), rel=1e-9)
    assert "computed exactly" in reading.explanation
    count = count_outliers(values.flip(0), 9).count
    assert reading.value == count


def test_outliers_of_a_known_spectrum_are_counted() -> None:
    bulk = 1 - 0.5 * torch.linspace(0, 1, 292, dtype=torch.float64) ** (2 / 3)
    reading = measure(
        SpectrumOfHessian(),
        Workbench.on(least_squares(torch.cat([torch.tensor([9.0, 7, 5, 4]).double(), bulk]))),
    )
    assert reading.value == 4
    found = scalars(reading)
    assert found["edge of the bulk"].value == pytest.approx(1.0, abs=2e-3)
    assert found["width of the bulk (root mean square)"].value == pytest.approx(
        float(bulk.square().mean().sqrt()), rel=0.02
    )
    assert found["share of negative eigenvalues"].value == 0
    assert found["share of positive eigenvalues"].value == pytest.approx(1.0)
    density = next(one for one in reading.details if isinstance(one, Curve))
    assert density.lines[1].x[::2] == pytest.approx([9, 7, 5, 4], rel=1e-6)
    assert [math.isnan(height) for height in density.lines[1].y] == [False, True] * 3 + [False]
    largest = next(one for one in reading.details if isinstance(one, Spectrum))
    assert largest.values[:4] == pytest.approx([9, 7, 5, 4], rel=1e-6)


def test_the_density_integrates_to_one() -> None:
    spectrum = torch.linspace(0.2, 1, 300, dtype=torch.float64)
    reading = measure(SpectrumOfHessian(), Workbench.on(least_squares(spectrum)))
    line = next(one for one in reading.details if isinstance(one, Curve)).lines[0]
    x, y = torch.tensor(line.x), torch.tensor(line.y)
    assert float(torch.trapezoid(y, x)) == pytest.approx(1.0, rel=0.02)
    assert all(low <= value <= high for low, value, high in zip(line.low, line.y, line.high, strict=True))


def test_intervals_cover_the_shares_of_larger_networks() -> None:
    """Estimated shares of a network of 363 weights, over seeds."""
    case = classifier(40, seed=1)
    values = torch.linalg.eigvalsh(dense_hessian(case))
    reach = 1e-3 * float(values.abs().max())
    truth = {
        "share of negative eigenvalues": float((values < -reach).double().mean()),
        "share of eigenvalues that are zero": float((values.abs() <= reach).double().mean()),
        "share of positive eigenvalues": float((values > reach).double().mean()),
        "trace by quadrature": float(values.sum()),
    }
    assert truth["share of negative eigenvalues"] > 0.02
    covered = dict.fromkeys(truth, 0)
    bench = Workbench.on(case)
    ends = bench.extreme_eigenpairs()
    for seed in range(40):  # other random vectors each time; the search for the ends is exact
        generator, memory = torch.Generator().manual_seed(seed), bench.plan.memory_bytes
        density = density_of_spectrum(bench.specimen, "train", ends, PROBES, STEPS, memory, generator)
        shares = shares_by_sign(density, 1e-3)
        for item in (shares.negative, shares.zero, shares.positive):
            assert item.low is not None
            assert item.high is not None
            covered[item.name] += item.low <= truth[item.name] <= item.high
        low, high = density.trace_of(lambda x: x).interval()
        covered["trace by quadrature"] += low <= truth["trace by quadrature"] <= high
    assert min(covered.values()) >= 34, covered  # 38 expected; below 34 with probability 0.01
    said = scalars(measure(SpectrumOfHessian(), bench))
    used = shares_by_sign(bench.spectral_density(), 1e-3)
    assert all(said[item.name] == item for item in (used.negative, used.zero, used.positive))


def test_all_four_instruments_share_one_search_and_one_density() -> None:
    bench = Workbench.on(classifier(60))
    first = measure(SpectrumOfHessian(), bench)
    assert first.cost.backward_passes > 50
    assert measure(TopEigenpairs(), bench).cost.backward_passes <= 1.01
    assert measure(NegativeCurvature(), bench).cost.backward_passes <= 0.01


def test_too_many_classes_for_the_search_are_said_to_be() -> None:
    x = torch.randn(120, 20, generator=torch.Generator().manual_seed(0))
    case = Specimen(nn.Linear(20, 60), Classification(), (x, torch.arange(120) % 60))
    reading = measure(SpectrumOfHessian(), Workbench.on(case))
    assert reading.value is None
    assert any("for 60 classes 65 eigenvalues would be needed" in note for note in reading.notes)


def test_more_classes_than_the_shared_search_gives_get_their_own() -> None:
    x = torch.randn(100, 20, generator=torch.Generator().manual_seed(0))
    case = Specimen(nn.Linear(20, 20), Classification(), (x, torch.arange(100) % 20))
    reading = measure(SpectrumOfHessian(), Workbench.on(case))
    assert reading.value is not None
    assert len(next(one for one in reading.details if isinstance(one, Spectrum)).values) == 26


def test_residuals_hide_gaps() -> None:
    values = torch.tensor([5.0, 4.0, 1.0, 0.99, 0.98, 0.97, 0.96, 0.95, 0.94]).double()
    exact = Eigenpairs(values, torch.eye(9).double(), torch.zeros(9).double(), 0, True)
    vague = Eigenpairs(values, torch.eye(9).double(), torch.full((9,), 2.0).double(), 0, False)
    first, second = outliers_of(exact, 2), outliers_of(vague, 2)
    assert first is not None
    assert second is not None
    assert (first.count, second.count) == (2, 0)
    assert outliers_of(exact, 5) is None


def test_resolvable_condition_of_an_exact_spectrum() -> None:
    case = least_squares(torch.tensor([8.0, 4.0, 2.0, 0.5, 0.0], dtype=torch.float64))
    found = scalars(measure(ConditionNumber(), Workbench.on(case)))
    assert found["largest over smallest eigenvalue above rounding, at least"].value == pytest.approx(16.0)
    assert found["largest over smallest eigenvalue"].value == math.inf
    assert found["eigenvalues above 1% of the largest"].value == pytest.approx(4.0)


def test_resolvable_condition_is_a_lower_bound() -> None:
    spectrum = torch.logspace(0, -6, 300, dtype=torch.float64)
    found = scalars(measure(ConditionNumber(), Workbench.on(least_squares(spectrum))))
    bound = found["largest over smallest eigenvalue above rounding, at least"].value
    assert 1e2 < bound <= 1e6 * (1 + 1e-6)
    many = found["eigenvalues above 1% of the largest"]
    assert many.low <= 100 <= many.high


@pytest.mark.parametrize(
    ("count", "classes", "said"),
    [
        (9, 10, "as expected for 10 classes"),
        (10, 10, "as expected for 10 classes"),
        (4, 10, "not 9 or 10"),
        (0, 10, "no eigenvalue stands apart"),
        (3, None, "3 eigenvalues stand apart"),
    ],
)
def test_judge(count: int, classes: int | None, said: str) -> None:
    values = torch.cat(
        [torch.arange(count, 0, -1).double() + 5, 1 - 0.01 * torch.arange(20).double() ** (2 / 3)]
    )
    verdict = judge(count_outliers(values, 12), classes)
    assert verdict.level is Level.INFORMATIVE
    assert said in verdict.reason
    assert "too few" in judge(None, classes).reason
