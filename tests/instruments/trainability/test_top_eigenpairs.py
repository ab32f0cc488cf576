"""The largest eigenpairs of the Hessian, against the dense matrix."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchstone.details import Curve, Scalars, Spectrum, Table
from torchstone.instruments.measurement import measure
from torchstone.instruments.trainability.stability_edge import StabilityEdge
from torchstone.instruments.trainability.top_eigenpairs import (
    GradientShare,
    TopEigenpairs,
    gradient_share,
    judge,
    participation,
)
from torchstone.linalg import Eigenpairs
from torchstone.objectives import Classification, Regression
from torchstone.operators import ParameterSpace
from torchstone.reading import Level, Reading
from torchstone.recipe import Recipe
from torchstone.specimen import Specimen
from torchstone.testing import dense_gradient, dense_hessian
from torchstone.workbench import Workbench


def specimen(**options: Any) -> Specimen:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 5, generator=generator, dtype=torch.float64)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return Specimen(model, Classification(), (x, x[:, :3].argmax(1)), **options)


def detail(reading: Reading, kind: type, index: int = 0) -> Any:
    return [one for one in reading.details if isinstance(one, kind)][index]


def test_eigenvalues_shares_and_layers_are_those_of_the_dense_hessian() -> None:
    case = specimen()
    reading = measure(TopEigenpairs(pairs=4, tolerance=1e-8), Workbench.on(case))
    values, vectors = torch.linalg.eigh(dense_hessian(case))
    values, vectors = values.flip(0), vectors.flip(1)
    assert reading.value == pytest.approx(float(values[0]), rel=1e-10)
    assert detail(reading, Spectrum).values == pytest.approx(values[:4].tolist(), rel=1e-8)
    gradient = dense_gradient(case)
    shares = (vectors.T @ gradient / gradient.norm()).square().cumsum(0)[:4]
    overlap = detail(reading, Curve, 1)
    assert overlap.lines[0].y == pytest.approx(shares.tolist(), rel=1e-6)
    assert overlap.lines[1].y == pytest.approx([k / len(values) for k in range(1, 5)])
    first = vectors[:48, 0].square().sum()  # the first layer's weight and bias
    assert detail(reading, Curve).lines[0].y == pytest.approx([float(first), 1 - float(first)], rel=1e-6)
    carried = {item.name: item.value for item in detail(reading, Scalars).items}
    assert carried["weights that carry the sharpest direction"] == pytest.approx(
        1 / float(vectors[:, 0].pow(4).sum()), rel=1e-6
    )
    rows = detail(reading, Table).rows
    assert [row[0] for row in rows] == [1, 2, 3, 4]
    assert rows[0][3] == ("0" if first > 0.5 else "2")


def test_the_search_is_shared_with_other_instruments() -> None:
    case = specimen(recipe=Recipe(lr=0.1))
    bench = Workbench.on(case)
    edge = measure(StabilityEdge(), bench)
    top = measure(TopEigenpairs(), bench)
    assert edge.cost.backward_passes > 20
    assert top.cost.backward_passes <= 1.01  # the gradient alone
    assert edge.value == pytest.approx((top.value or 0) * 0.1 / 2, rel=1e-12)
    alone = measure(TopEigenpairs(), Workbench.on(case))
    assert alone.without_cost() == top.without_cost()  # whoever comes first


def test_a_quick_plan_looks_for_the_first_pair_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(20, 100, generator=generator), torch.randn(20, 1, generator=generator)
    passes = {}
    for plan in ("quick", "standard"):
        case = Specimen(nn.Linear(100, 1), Regression(), (x, y), recipe=Recipe(lr=0.1))
        passes[plan] = measure(StabilityEdge(), Workbench.on(case, plan)).cost.backward_passes
    assert passes["quick"] < 0.7 * passes["standard"]


def test_a_random_gradient_has_the_chance_share() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.linalg.qr(torch.randn(200, 11, generator=generator, dtype=torch.float64)).Q
    pairs = Eigenpairs(torch.arange(11, 0, -1).double(), vectors, torch.zeros(11).double(), 0, True)
    draws = [
        gradient_share(pairs, 10, torch.randn(200, generator=generator, dtype=torch.float64)).value
        for _ in range(2000)
    ]
    # Beta(10/2, 190/2): mean 0.05, standard deviation sqrt(0.05 * 0.95 / 101)
    assert sum(draws) / 2000 == pytest.approx(0.05, abs=4 * math.sqrt(0.05 * 0.95 / 101 / 2000))


def test_bounds_of_the_share_hold_for_perturbed_pairs() -> None:
    generator = torch.Generator().manual_seed(1)
    slack = []
    for _ in range(200):
        basis = torch.linalg.qr(torch.randn(30, 30, generator=generator, dtype=torch.float64)).Q
        values = torch.rand(30, generator=generator, dtype=torch.float64).sort(descending=True).values
        values[:4] += 1
        matrix = basis @ torch.diag(values) @ basis.T
        gradient = torch.randn(30, generator=generator, dtype=torch.float64)
        wrong = torch.linalg.qr(
            basis[:, :5] + 0.01 * torch.randn(30, 5, generator=generator, dtype=torch.float64)
        )
        rayleigh, turned = torch.linalg.eigh(wrong.Q.T @ matrix @ wrong.Q)
        vectors, found = wrong.Q @ turned.flip(1), rayleigh.flip(0)
        residuals = (matrix @ vectors - vectors * found).norm(dim=0)
        share = gradient_share(Eigenpairs(found, vectors, residuals, 0, True), 4, gradient)
        exact = float((basis[:, :4].T @ gradient).square().sum() / gradient.square().sum())
        assert share.low <= exact <= share.high
        slack.append(share.high - share.low)
    assert min(slack) < 0.5


def test_unknown_gaps_leave_the_share_open() -> None:
    vectors = torch.eye(5, 2, dtype=torch.float64)
    same = Eigenpairs(torch.ones(2).double(), vectors, torch.full((2,), 0.1).double(), 0, False)
    share = gradient_share(same, 1, torch.ones(5).double())
    assert (share.value, share.low, share.high) == (pytest.approx(0.2), 0.0, 1.0)


def test_a_zero_gradient_has_no_share() -> None:
    x = torch.ones(4, 2)
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.zero_()
    reading = measure(TopEigenpairs(), Workbench.on(Specimen(model, Regression(), (x, torch.zeros(4, 1)))))
    assert reading.headline.endswith("the gradient is zero.")
    assert reading.verdict.reason == "the gradient is zero"


def test_a_space_of_all_directions_holds_the_gradient() -> None:
    x, y = torch.randn(8, 2, generator=torch.Generator().manual_seed(0)), torch.ones(8, 1)
    reading = measure(TopEigenpairs(), Workbench.on(Specimen(nn.Linear(2, 1), Regression(), (x, y))))
    share = detail(reading, Scalars).items[0]
    assert (share.value, share.low, share.high) == (1.0, 1.0, 1.0)


def test_participation_adds_up_over_layers() -> None:
    case = specimen()
    space = ParameterSpace.of(case)
    vectors = torch.linalg.qr(torch.randn(space.size, 3, generator=torch.Generator().manual_seed(0))).Q
    shares: dict[str, Tensor] = participation(vectors, space)
    assert list(shares) == ["0", "2"]
    assert torch.stack(list(shares.values())).sum(0).tolist() == pytest.approx([1.0] * 3, rel=1e-6)


def test_what_the_budget_leaves_open_is_said() -> None:
    reading = measure(TopEigenpairs(pairs=10, tolerance=1e-8, products=27), Workbench.on(specimen()))
    assert any("above the tolerance after at most 27 products" in note for note in reading.notes)


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (0.5, "leans to the sharpest directions: 50 times chance"),
        (0.02, "does not single out"),
        (math.nan, "gradient is zero"),
    ],
)
def test_judge(share: float, said: str) -> None:
    verdict = judge(GradientShare(share, share, share), 10, 1000)
    assert verdict.level is Level.INFORMATIVE
    assert said in verdict.reason
